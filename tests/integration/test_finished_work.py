"""Finished work: what makes a stage new, what does not, and what is said of damage."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cogvid.pipeline import stage as stage_module
from helpers import cogvid, refused

PROMPT = "a small red circle moves left"
PLUGIN = """
import sys
from pathlib import Path
import cogvid
sys.path.insert(0, str(Path(__file__).parent))
import my_pattern
sys.path.pop(0)


class Cross(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return my_pattern.near(query, key)


@cogvid.hookimpl
def register_attention_backends():
    return {"cross": Cross}
"""
HELPER = "def near(query, key): return (query.row == key.row) | (query.column == key.column)\n"


def run_folder(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "default" / "0"


def again(folder: Path, *words: object) -> Result:
    return cogvid("run", folder / "tiny.yaml", "--runs", folder / "runs", *words)


def test_an_edited_helper_of_a_plugin_makes_new_what_it_decides_and_is_named(copied: Path) -> None:
    (copied / "my_attention.py").write_text(PLUGIN)
    (copied / "my_pattern.py").write_text(HELPER)
    with (copied / "tiny.yaml").open("a") as file:
        file.write("plugins: [./my_attention.py]\nattention: cross\nname: crossed\n")
    changed = {"sequential", "interpolation", "samples", "metrics"}
    changes = ["evaluation.metrics={}", "generation.samples=1"]
    before = {path.name for path in (copied / "runs" / "stages").iterdir()}
    assert again(copied, *changes).exit_code == 0
    first = {path.name for path in (copied / "runs" / "stages").iterdir()} - before
    assert {name.split("-")[0] for name in first} == changed
    (copied / "my_pattern.py").write_text(HELPER.replace("|", "&"))
    result = again(copied, *changes)
    assert result.exit_code == 0, result.output
    log = (copied / "runs" / "crossed" / "default" / "0" / "log.txt").read_text()
    assert "sequential: made again, because my_pattern.py changed" in log
    second = {path.name for path in (copied / "runs" / "stages").iterdir()} - before - first
    assert {name.split("-")[0] for name in second} == changed


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("stages/image_base/model.safetensors", flip),
        ("stages/tokens/00000.safetensors", flip),
        ("stages/tokens/tokens.arrow", flip),
        ("stages/data/clips.arrow", flip),
        ("stages/sequential/stage.json", shorten),
        ("samples/videos.safetensors", flip),
    ],
)
def test_a_run_finds_a_damaged_stage_and_says_what_to_remove(
    copied: Path, name: str, damage: Callable[[Path], None]
) -> None:
    path = run_folder(copied) / name
    damage(path)
    stage = path.resolve().parent
    refused(again(copied), path.name, f"Remove the folder {stage}")
    shutil.rmtree(stage)
    result = again(copied)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ["image_base", "sequential", "interpolation", "tokenizer"])
def test_sampling_finds_a_damaged_model(copied: Path, tmp_path: Path, name: str) -> None:
    path = run_folder(copied) / "stages" / name / "model.safetensors"
    flip(path)
    refused(cogvid("sample", run_folder(copied), PROMPT, "--out", tmp_path / "out"), str(path), "Remove the folder")


def test_models_that_changed_places_are_found(copied: Path) -> None:
    one, other = (run_folder(copied) / "stages" / name for name in ("sequential", "interpolation"))
    weights = (one / "model.safetensors").read_bytes()
    (one / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    (other / "model.safetensors").write_bytes(weights)
    refused(again(copied), "SHA-256")


def test_damaged_metrics_are_written_again_from_their_stage(copied: Path) -> None:
    path = run_folder(copied) / "metrics.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    assert again(copied).exit_code == 0
    assert path.read_bytes() == whole


def test_where_results_were_made_is_not_rewritten(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_folder(copied) / "environment.json"
    made = path.read_bytes()
    other = {**json.loads(made), "python": "another"}
    monkeypatch.setattr(stage_module, "environment", lambda: other)
    assert again(copied).exit_code == 0
    assert path.read_bytes() == made
    metrics = json.loads((run_folder(copied) / "metrics.json").read_text())
    (stage,) = (copied / "runs" / "stages").glob("metrics-*")
    shutil.rmtree(stage)
    assert again(copied).exit_code == 0
    assert json.loads(path.read_text()) == other
    assert json.loads((run_folder(copied) / "metrics.json").read_text()) == metrics


def test_a_run_that_another_process_is_at_is_refused_on_request(copied: Path) -> None:
    with (run_folder(copied) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(again(copied, "--no-wait"), "another cogvid process", "--no-wait")
    assert again(copied, "--no-wait").exit_code == 0
