"""From a run back to the files of the 2022 release, as its own code reads them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.model.released import TABLES, names_in_release
from cogvid.pipeline.convert_released import MODEL, RELEASED, UNUSED
from cogvid.pipeline.export import trained_stages
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.new_folder import new_folder
from cogvid.pipeline.released_files import CLUSTERS, IMAGE_TOKENIZER, LATEST, STAGE_FILE, TEXT_MODEL
from cogvid.pipeline.released_parts import released_sizes
from cogvid.pipeline.run import saved_run
from cogvid.pipeline.stage import StageResult
from cogvid.pipeline.tensor_file import read_tensors
from cogvid.pipeline.tokenizer_stage import load_clusters
from cogvid.progress import stage_progress

# What the files are called where a run does not say what they were.
_NAMES: dict[str, Any] = {
    "stages": [
        {"weights": f"cogvideo-stage{n}/1/{STAGE_FILE}", "latest": f"cogvideo-stage{n}/{LATEST}", "iteration": "1"}
        for n in (1, 2)
    ],
    "image_tokenizer": IMAGE_TOKENIZER,
    "text_model": TEXT_MODEL,
    "clusters": CLUSTERS,
}


def export_released(run: Path, out: Path) -> None:
    """Write a run's models under the names and in the files of the release.

    Of one that was converted the tensors are what they were, byte for byte, and the other files, too.

    Args:
        run: folder of a run: one that was converted, or that was trained with the release's parts.
        out: the folder to make.

    Raises:
        UserError: `run` is no run, is not trained yet or damaged, has parts that the release has not, or `out` is there
            already.
    """
    config, stages = saved_run(run)
    lab = Lab(config)
    stages = trained_stages(lab, stages)
    if "interpolation" not in stages:
        raise UserError(f"{run} has no interpolation stage, and the release has two.")
    text, clusters = _text_model(stages["text_tokenizer"]), _clusters(stages["tokenizer"])
    image = _image_tokenizer(lab, stages["tokenizer"])
    models = [_model(lab, stages[name]) for name in ("sequential", "interpolation")]
    names = json.loads((run / RELEASED).read_text()) if (run / RELEASED).exists() else _NAMES
    size = sum(tensor.nbytes for tensors in (*models, image) for tensor in tensors.values())
    with new_folder(out, size) as folder:
        files = [(names["image_tokenizer"], image)]
        for model, place in zip(models, names["stages"], strict=True):
            files.append((place["weights"], model))
            _place(folder, place["latest"]).write_text(place["iteration"])
        _place(folder, names["text_model"]).write_bytes(text.read_bytes())
        _place(folder, names["clusters"]).write_bytes(clusters)
        with stage_progress() as progress:
            for name, tensors in progress.track(files, description="export"):
                torch.save({"module": tensors}, _place(folder, name))


def _model(lab: Lab, stage: StageResult) -> dict[str, Tensor]:
    """A transformer's tensors under their released names, its tables with the rows that were left aside."""
    state, unused = read_tensors(stage.folder / MODEL), _unused(stage)
    names = {ours: released for released, ours in names_in_release(lab.config.model.layers).items()}
    if state.keys() != names.keys():
        stranger = sorted(state.keys() ^ names.keys())[0]
        raise UserError(
            f"{stage.folder / MODEL}: {stranger} is {'no tensor of the release' if stranger in state else 'missing'}: "
            "its model has learned positions and attention without a bias."
        )
    model = {}
    for ours, tensor in state.items():
        name = names[ours]
        model[name] = torch.cat([tensor, unused[name]]) if ours in TABLES and name in unused else tensor
    return model


def _unused(stage: StageResult) -> dict[str, Tensor]:
    path = stage.folder / UNUSED
    return read_tensors(path) if path.exists() else {}


def _image_tokenizer(lab: Lab, stage: StageResult) -> dict[str, Tensor]:
    tensors = read_tensors(stage.folder / MODEL) | _unused(stage)
    # Of another kind of tokenizer it gives no sizes.
    released_sizes(lab.plugins, lab.config.frame_tokenizer.name, tensors)
    return tensors


def _text_model(stage: StageResult) -> Path:
    found = [stage.folder / name for name in stage.info["outputs"] if name.endswith(".model")]
    if len(found) != 1:
        raise UserError(f"{stage.folder} has no SentencePiece model, and the release's text tokenizer is one.")
    return found[0]


def _clusters(stage: StageResult) -> bytes:
    """The file of numpy's."""
    if (stage.folder / CLUSTERS).exists():
        return (stage.folder / CLUSTERS).read_bytes()
    clusters, content = load_clusters(stage), io.BytesIO()
    if clusters is None:
        raise UserError(f"{stage.folder} has no clusters of codes, and the release samples with them.")
    np.save(content, clusters.numpy())
    return content.getvalue()


def _place(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return folder / name
