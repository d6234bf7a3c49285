"""Two processes that share out the weights of the transformers train to what one process does."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from cogvid.cli import app

pytestmark = pytest.mark.slow

STEPS = 20
STAGES = ("image_base", "sequential", "interpolation")
EXPERIMENT = """
variants:
  # Copied and with Muon: the video stages start from the files of those before.
  copy:
    model: {plus_init: copy}
    stages: {image_base: {muon_lr: 0.002}, sequential: {muon_lr: 0.002}, interpolation: {muon_lr: 0.002}}
  # Plain Adam, and numbers that are drawn: the plus channel's and, in no other file either, a bias's.
  random:
    model: {plus_init: random, positions: rotary, checkpoint_activations: true}
    attention: {name: local3d, options: {extent: [2, 3, 3], bias: true}}
    stages: {image_base: {muon_lr: 0}, sequential: {muon_lr: 0}, interpolation: {muon_lr: 0, start: base}}
"""
CHANGES = [
    "evaluation.metrics={}",
    "generation.samples=1",
    "trainer.sample_prompts=[red circle]",
    *(f"stages.{stage}.{key}" for stage in STAGES for key in (f"steps={STEPS}", "batch_size=4", "adam_lr=5e-4")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """Where the data, the frame tokenizer and the tokens are made once."""
    folder = tmp_path_factory.mktemp("sharding")
    (folder / "tiny.yaml").write_text(tiny_text[: tiny_text.index("variants:")] + EXPERIMENT)
    return folder


def run(folder: Path, variant: str, fork: Callable[..., Any], *changes: str) -> dict[str, Path]:
    """Train with no transformer there; the stages' folders, in a place of their own."""
    words = ["run", "tiny.yaml", "--variant", variant, *CHANGES, *changes]
    if changes:  # a process that starts others
        process = fork(*words, folder=folder)
        assert process.wait(250) == 0, process.communicate()
    else:
        with contextlib.chdir(folder):
            result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    kept = folder / ("shared out" if changes else "whole") / variant
    found = {}
    for stage in STAGES:
        (made,) = (folder / "runs" / "stages").glob(f"{stage}-*")
        found[stage] = Path(shutil.move(made, kept / made.name))
    return found


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("copy", ["trainer.accumulate=2"]), ("random", ["trainer.fsdp2.reshard=false"])],
    ids=["copy, muon", "random, adam"],
)
def test_two_processes_with_shards_equal_one(
    folder: Path, variant: str, changes: list[str], fork: Callable[..., Any]
) -> None:
    whole = run(folder, variant, fork)
    shards = run(folder, variant, fork, "trainer.devices=2", "trainer.strategy=fsdp2", *changes)
    log = (folder / "runs" / "tiny" / variant / "0" / "log.txt").read_text()
    assert log.count("no previews") == 1
    for stage in STAGES:
        assert whole[stage].name == shards[stage].name
        assert {path.name for path in shards[stage].iterdir()} == {path.name for path in whole[stage].iterdir()}
        losses, expected = (
            [json.loads(line)["loss"] for line in (stages[stage] / "history.jsonl").read_text().splitlines()]
            for stages in (shards, whole)
        )
        assert losses == pytest.approx(expected, rel=1e-5)
        assert len(losses) == len(set(losses)) == STEPS
        weights, reference = (load_file(stages[stage] / "model.safetensors") for stages in (shards, whole))
        assert weights.keys() == reference.keys()
        apart = {name: float((weight - reference[name]).abs().max()) for name, weight in weights.items()}
        assert max(apart.values()) < 1e-4, apart
