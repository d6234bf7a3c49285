"""Decodings on the clips of a run: measured by `cogvid bench decode --run`, drawn by `cogvid inspect schedule`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cogvid.generation import clips as clips_module
from cogvid.inspect import run_clip
from helpers import cogvid, refused


def test_decodings_are_measured_on_the_clips_of_a_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    said = ["--clips", "2", "--batch", "1,2", "--repeats", "1", "--out", out]
    result = cogvid("bench", "decode", "--run", run, *said)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    parts = {(part["part"], part["decoding"], part["batch"]): part for part in record["parts"]}
    names = dict.fromkeys(part["part"] for part in record["parts"])
    assert list(names) == ["first frame", "key frames", "round 1"]
    assert len(parts) == 3 * 3 * 2
    for (part, decoding, _), found in parts.items():
        slots = 16 * {"first frame": 1, "key frames": 4, "round 1": 2}[part]
        if decoding == "sequential":
            assert found["passes_mean"] == found["passes_most"] == slots
        assert found["equal_tokens"] == 1 or found["distances_from_ties"]
        assert max(found["distances_from_ties"], default=0) <= 1e-4
        assert found["passes_mean"] <= slots <= slots * found["computed_for_each_kept"]
        if decoding != "fixed_point":
            assert set(found["acceptance_by_frame"] + found["acceptance_by_place"]) == {1}
    for whole in record["whole_clips"]:
        own = [found for key, found in parts.items() if key[1:] == (whole["decoding"], whole["batch"])]
        assert whole["passes_mean"] == pytest.approx(sum(found["passes_mean"] for found in own))
        assert whole["seconds"] == pytest.approx(sum(found["seconds"] for found in own))
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [record["arguments"][name] for name in ("device", "dtype", "compile")] == ["cpu", "float32", False]


def test_in_half_precision_the_equal_tokens_of_a_run_are_counted_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    said = ["--clips", "1", "--batch", "1", "--repeats", "1", "--decoding", "scheduled", "--dtype", "bfloat16"]
    result = cogvid("bench", "decode", "--run", run, *said, "--out", out)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["arguments"]["dtype"] == "bfloat16"
    assert all(part["distances_from_ties"] is None for part in record["parts"])
    assert all(0 < whole["equal_tokens"] <= 1 for whole in record["whole_clips"])


def test_a_run_is_not_measured_with_what_is_no_number_or_not_there(run: Path, tmp_path: Path) -> None:
    measure = ["bench", "decode", "--out", tmp_path / "out.json", "--run"]
    refused(cogvid(*measure, run, "--batch", "1,x"), "--batch 1,x", "whole number")
    refused(cogvid(*measure, run, "--size", "tiny"), "--run brings")
    refused(cogvid(*measure, run, "--dtype", "float16"), "--dtype float16", "float32 or bfloat16")
    if not torch.cuda.is_available():
        refused(cogvid(*measure, run, "--device", "cuda"), "--device cuda")
    refused(cogvid(*measure, tmp_path), "is not the folder of a run")
    refused(cogvid(*measure, run, "--decoding", "fixpoint"), "Did you mean 'fixed_point'")


def test_the_passes_of_a_clip_of_the_run_are_printed_and_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, made = clips_module.generate_tokens, []

    def spy(*rest: object, **more: object) -> Tensor:
        made.append(generate(*rest, **more))
        return made[-1]

    monkeypatch.setattr(clips_module, "generate_tokens", spy)
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "it.gif"
    drawn = {}
    for name in ("scheduled", "fixed_point"):
        result = cogvid("inspect", "schedule", run, "--clip", "2", "--decoding", name, "--out", out)
        assert result.exit_code == 0, result.output
        assert f"{name} on 9x4x4" in result.output
        with Image.open(out) as animation:
            drawn[name] = animation.n_frames
        (said,) = re.findall(r"([\d,]+) passes where the shortest schedule has ([\d,]+) steps", result.output)
        assert int(said[0]) == drawn[name]
        assert int(said[1]) == drawn["scheduled"]
        rows = dict(re.findall(r"│ +(\S.*?) +│ +(\S.*?) +│ +(?:\d+ steps)? +│", result.output))
        assert list(rows) == ["first frame", "key frames", "round 1", "the clip", *(f"frame {t}" for t in range(9))]
        assert sum(int(rows[part]) for part in ("first frame", "key frames", "round 1")) == int(rows["the clip"])
    clips = load_file(run / "samples" / "tokens.safetensors")["key_frames"]
    for _, keys, _ in (made[:3], made[3:]):
        assert torch.equal(keys[0].int(), clips[2]), "the very clip of the run"


def test_passes_of_what_is_no_clip_of_a_run_are_refused_before_a_model_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_clip, "trained_models", lambda *_: pytest.fail("models were loaded"))
    show = ["inspect", "schedule", run]
    out = ["--out", tmp_path / "it.gif"]
    refused(cogvid(*show, *out, "--clip", "99"), "--clip 99", "test clips 0 to ")
    refused(cogvid("inspect", "schedule", tmp_path, *out, "--clip", "0"), "is not the folder of a run")
    refused(cogvid("inspect", "schedule", "attention=naive", *out, "--clip", "0"), "is not the folder of a run")
    refused(cogvid("inspect", "schedule", "attention=naive", "--decoding", "scheduled"), "--decoding", "--clip")
    refused(cogvid(*show, *out, "--clip", "0", "--grid", "5x4x4"), "leave out --grid")
    refused(cogvid(*show, *out, "--clip", "0", "model.layers=3"), "model.layers=3", "generation.KEY=VALUE")
    refused(cogvid(*show, *out, "--clip", "0", "--decoding", "fixpoint"), "Did you mean 'fixed_point'")
    refused(cogvid(*show, "--clip", "0", "--out", tmp_path / "it.png"), "it.png", "ends in .gif")
    refused(cogvid(*show, "--clip", "0", "--out", tmp_path / "no" / "it.gif"), "Cannot write the picture")
    shutil.copytree(run, tmp_path / "untrained")
    (tmp_path / "untrained" / "stages" / "sequential" / "stage.json").unlink()
    refused(cogvid("inspect", "schedule", tmp_path / "untrained", *out, "--clip", "0"), "has not trained sequential")
    (tmp_path / "untrained" / "stages" / "data" / "stage.json").unlink()
    refused(cogvid("inspect", "schedule", tmp_path / "untrained", *out, "--clip", "0"), "no test clips", "export")
    assert not list(tmp_path.glob("it.*"))
