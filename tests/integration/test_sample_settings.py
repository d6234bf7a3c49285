"""What `generation` of a configuration says holds for clips: strategy, type, decoding, clusters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.reading import probe
from cogvid.generation import clips as clips_module
from cogvid.model.transformer import CogVideoTransformer
from helpers import cogvid, contents, refused, sample

RED = "a small red circle moves left"


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: object, **__: object) -> None:
        pytest.fail("a clip was generated again")

    monkeypatch.setattr(clips_module, "generate_tokens", generate)


def changed(run: Path, folder: Path, old: str, new: str) -> Path:
    """The run with another configuration, in a folder of its own."""
    folder.mkdir()
    config = (run / "config.yaml").read_text()
    assert old in config
    (folder / "config.yaml").write_text(config.replace(old, new))
    (folder / "stages").symlink_to(run / "stages")
    return folder


@pytest.mark.parametrize("strategy", ["hold", "linear"])
def test_strategies_without_a_model_fill_the_clip(run: Path, tmp_path: Path, strategy: str) -> None:
    filled = changed(run, tmp_path / "run", "name: recursive", f"name: {strategy}")
    sample(filled, RED, "--frames", "12", "--out", tmp_path / "out", "--gif")
    (video,) = (tmp_path / "out").glob("*.mp4")
    assert len(probe(video).times) == 12
    assert load_file(video.with_suffix(".safetensors"))["codes"].shape == (5, 16)


def test_models_generate_in_the_type_that_the_configuration_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, types = changed(run, tmp_path / "run", "dtype: float32", "dtype: bfloat16"), set()
    generate = clips_module.generate_tokens

    def spy(model: CogVideoTransformer, *rest: object, **more: object) -> Tensor:
        types.update(parameter.dtype for parameter in model.parameters())
        return generate(model, *rest, **more)

    monkeypatch.setattr(clips_module, "generate_tokens", spy)
    sample(half, RED, "--out", tmp_path / "out")
    assert types == {torch.bfloat16}


def test_a_clip_of_other_settings_is_refused_by_what_differs(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--out", tmp_path / "out")
    cooler = changed(run, tmp_path / "run", "temperature: 1.0", "temperature: 0.5")
    refused(cogvid("sample", cooler, RED, "--out", tmp_path / "out"), "holds another clip (generation);")


def test_clips_are_the_same_with_every_exact_decoding(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sample(run, RED, "--out", out, "--decoding", "sequential")
    ((request, made),) = ((json.loads(path.read_text()), contents(out)) for path in out.glob("*.json"))
    assert "decoding" not in request["settings"]["generation"]
    sample(run, RED, "--out", tmp_path / "again")
    assert contents(tmp_path / "again") == made
    before = times(out)
    no_generation(monkeypatch)
    for more in ([], ["--decoding", "scheduled"], ["generation.decoding.options.window=3"]):
        sample(run, RED, *more, "--out", out)
    assert times(out) == before


def test_clips_of_an_approximate_decoding_are_others(run: Path, tmp_path: Path, hasty: Path) -> None:
    plugged = changed(run, tmp_path / "run", "plugins: []", f"plugins: [{hasty}]")
    sample(plugged, RED, "--out", tmp_path / "exact")
    refused(cogvid("sample", plugged, RED, "--decoding", "hasty", "--out", tmp_path / "exact"), "(generation);")
    sample(plugged, RED, "--decoding", "hasty", "--out", tmp_path / "hasty")
    (path,) = (tmp_path / "hasty").glob("*.json")
    assert json.loads(path.read_text())["settings"]["generation"]["decoding"]["name"] == "hasty"
    more = ["--decoding", "hasty", "generation.decoding.options.rows=2"]
    refused(cogvid("sample", plugged, RED, *more, "--out", tmp_path / "hasty"), "(generation);")


def test_a_decoding_that_nobody_has_is_refused_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    said = cogvid("sample", run, RED, "--decoding", "fixpoint", "--out", tmp_path / "out")
    refused(said, "generation.decoding", "Did you mean 'fixed_point'")
    said = cogvid("sample", run, RED, "generation.decoding.options.widow=4", "--out", tmp_path / "out")
    refused(said, "generation.decoding.options", "window")
    assert not (tmp_path / "out").exists()


def test_two_level_sampling_takes_the_clusters_of_the_tokenizer(run: Path, tmp_path: Path) -> None:
    clustered = changed(run, tmp_path / "run", "clusters: false", "clusters: true")
    sample(clustered, RED, "--out", tmp_path / "out")
    (tokens,) = (tmp_path / "out").glob("*.safetensors")
    assert len(load_file(tokens)["codes"].unique()) > 1


def test_two_level_sampling_of_a_run_without_clusters_names_the_key(run: Path, tmp_path: Path) -> None:
    clustered = changed(run, tmp_path / "run", "clusters: false", "clusters: true")
    (clustered / "stages").unlink()
    shutil.copytree(run / "stages", clustered / "stages")
    tokenizer = clustered / "stages" / "tokenizer"
    (tokenizer / "clusters.safetensors").unlink()
    said = json.loads((tokenizer / "stage.json").read_text())
    del said["outputs"]["clusters.safetensors"]  # as of a tokenizer that has no codebook
    (tokenizer / "stage.json").write_text(json.dumps(said))
    refused(cogvid("sample", clustered, RED, "--out", tmp_path / "out"), "generation.first_frame.clusters")
    assert not (tmp_path / "out").exists()
