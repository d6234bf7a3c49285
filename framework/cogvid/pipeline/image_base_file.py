"""An image base from a file: of a run here, of the 2022 release of CogVideo, or of CogView2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from cogvid.config.ranges import said
from cogvid.errors import UserError
from cogvid.model.released import TABLES, names_in_release
from cogvid.pipeline.digests import file_digest
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.released_files import TorchFile
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.pipeline.tensor_file import Later, write_tensors
from cogvid.pipeline.weights import mapped_tensors

# Names of a layer's tensors, in a release and here.
_LAYER = re.compile(r"(?:transformer\.layers|blocks)\.(\d+)\.")
_KEY = "stages.image_base.weights"


def image_base_from_file(lab: Lab, store: StageStore, vocabulary: int, path: Path) -> StageResult:
    """The stage that `stages.image_base.weights` names: its key depends on the file's content and on no data.

    Args:
        lab: the experiment's parts.
        store: of the stages.
        vocabulary: all tokens.
        path: the file.

    Raises:
        UserError: it holds another model.
    """
    tensors = image_base_tensors(lab, path, vocabulary)
    depends = {"weights": file_digest(path), "model": lab.image_config(vocabulary)}

    def work(folder: Path) -> Info:
        write_tensors(folder / "model.safetensors", tensors)
        parameters = sum(prod(tensor.shape) for tensor in tensors.values())
        return {"steps": 0, "parameters": parameters, "trainable_parameters": 0}

    return store.finish("image_base", depends, work)


def image_base_tensors(lab: Lab, path: Path, vocabulary: int | None) -> dict[str, Later]:
    """The image base's tensors in a file, in float32, each read when it is its turn.

    Of a video model the base is taken, and all else left aside; of a released one also rows of its tables that the
    experiment has no tokens or positions for.

    Args:
        lab: the experiment's parts.
        path: the file.
        vocabulary: all tokens; None where it is not known yet, and then it is not checked.

    Raises:
        UserError: the file cannot be read, or holds another model; the message names the first tensor that is wrong.
    """
    where = f"{said(_KEY, lab.sources)}{_KEY}: "
    try:
        weights = _read(path)
    except UserError as error:
        advice = "Name the model.safetensors of an image base, or a file of a released model; null trains one."
        raise UserError(f"{where}{error} {advice}") from error
    released = any(name.startswith("transformer.") for name in weights)
    layers = len({found[1] for name in weights if (found := _LAYER.match(name))})
    names = {ours: theirs for theirs, ours in names_in_release(lab.config.model.layers).items()} if released else {}

    def part(ours: str, shape: tuple[int, ...]) -> Later:
        name, table = names.get(ours, ours), released and ours in TABLES
        found = tuple(weights[name].shape) if name in weights else ()
        if ours == "word_embeddings.weight" and vocabulary is None:
            shape = (*found[:1], *shape[1:])
        if found[1:] != shape[1:] or not (found[:1] == shape[:1] or (table and found[:1] > shape[:1])):
            raise UserError(
                f"{where}{path} holds another image model: {name} is {found or 'missing'}, the experiment's needs "
                f"{shape}{' or more rows' if table else ''}. Set model, text and video.size to what it was made with."
            )
        return Later(shape, torch.float32, lambda: weights[name][: shape[0]].float())

    with torch.device("meta"):
        state = lab.image_model(vocabulary or 1).state_dict()
    if layers != lab.config.model.layers:
        raise UserError(
            f"{where}{path} holds another image model: it has {layers} layers, the experiment's has "
            f"{lab.config.model.layers} (model.layers)."
        )
    return {ours: part(ours, tuple(tensor.shape)) for ours, tensor in state.items()}


def _read(path: Path) -> Mapping[str, Tensor]:
    """Memory-mapped."""
    return mapped_tensors(path) if path.suffix == ".safetensors" else TorchFile(path)
