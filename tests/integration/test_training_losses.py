"""Every way of computing attention trains the quickstart's model to the losses of the dense computation."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid.cli import app

DENSE = """
import cogvid
from cogvid.interfaces.attention import PatternRunner
from cogvid.attention.dense import DenseAttention

class Dense(PatternRunner):
    def prepare(self, mask, device):
        return DenseAttention(mask, device)

@cogvid.hookimpl
def register_attention_backends():
    return {"dense": Dense}
"""
# The quickstart's model and settings, with less to learn from and no time to learn it.
SMALL = [
    "data.options.clips=24",
    "data.options.test_clips=16",
    "data.options.durations=[1,2]",
    "text.length=24",
    "stages.tokenizer.steps=4",
    "stages.image_base.steps=4",
    "stages.sequential.steps=6",
    "stages.interpolation.steps=6",
    "trainer.log_every=1",
    "trainer.loggers=[]",  # no previews
    "generation.samples=1",
    "generation.frames=9",
    "held_out.clips=1",
    "evaluation.metrics={}",
]
PATTERNS = {
    "local3d": "{name: local3d, options: {extent: [2, 2, 3], bias: true}}",
    "swin_ar": "{name: swin_ar, options: {window: [4, 4]}}",
}
RUNS = {
    **PATTERNS,
    "auto": f"{{name: auto, options: {{pattern: {PATTERNS['swin_ar']}}}}}",
    "triton": f"{{name: triton, options: {{pattern: {PATTERNS['swin_ar']}}}}}",
}


# A sequence takes a layer's kernels seconds in the interpreter.
INTERPRETED = [
    "model.layers=1",
    "model.heads=2",
    *(f"stages.{stage}.{key}" for stage in ("sequential", "interpolation") for key in ("steps=2", "batch_size=1")),
]


def losses(folder: Path, variant: str, attention: str, *more: str) -> dict[str, list[float]]:
    """Train with an attention; the loss of every step of the two stages that use it."""
    words = ["run", "quickstart", "--runs", str(folder / "runs"), *SMALL, f"variant={variant}"]
    words += ["plugins=[./dense.py]", f"attention={attention}", *more]
    if "triton" in variant:
        # Its interpreter has to be switched on before anything imports Triton.
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "cogvid", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    else:
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    stages = folder / "runs" / "quickstart" / variant / "0" / "stages"
    found = {}
    for stage in ("sequential", "interpolation"):
        lines = (stages / stage / "history.jsonl").read_text().splitlines()
        found[stage] = [json.loads(line)["loss"] for line in lines]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs share their data, tokens and image base."""
    folder = tmp_path_factory.mktemp("losses")
    (folder / "dense.py").write_text(DENSE)
    return folder


@pytest.fixture(scope="module")
def dense_losses(folder: Path) -> Callable[..., dict[str, list[float]]]:
    """Losses of the dense computation of a pattern, trained once."""

    @cache
    def dense(pattern: str, *more: str) -> dict[str, list[float]]:
        variant = f"dense-{pattern}{len(more)}"
        return losses(folder, variant, f"{{name: dense, options: {{pattern: {PATTERNS[pattern]}}}}}", *more)

    return dense


@pytest.mark.parametrize("name", [*PATTERNS, "auto", pytest.param("triton", marks=pytest.mark.slow)])
def test_the_losses_are_those_of_the_dense_computation(
    folder: Path, name: str, dense_losses: Callable[..., dict[str, list[float]]]
) -> None:
    few = INTERPRETED if name == "triton" else []
    if name == "triton":
        pytest.importorskip("triton")
    dense = dense_losses(name if name in PATTERNS else "swin_ar", *few)
    found = losses(folder, name, RUNS[name], *few)
    for stage, expected in dense.items():
        assert len(found[stage]) == len(expected) >= 2
        assert found[stage] == pytest.approx(expected, abs=1e-4)
        assert len(set(expected)) == len(expected)
