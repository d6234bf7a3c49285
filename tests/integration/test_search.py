"""`cogvid search`: real trainings, of which one fails and some are pruned; killed in the middle, it goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvid.cli import app

optuna = pytest.importorskip("optuna", reason="Optuna is an extra: pip install 'cogvid[search]'")

SEARCH = """
search:
  target: held_out.image_base
  trials: 3
  startup: 2
  prune: image_base
  space:
    stages.image_base.muon_lr: {low: 1.0e-4, high: 0.3, log: true}
    stages.image_base.clip_norm: [0, 0.1]
"""
VALIDATE = "stages.image_base.validate_every=2"


def search(jobs: Any, *words: str) -> str:
    """What `cogvid search` says until it ends."""
    (process,) = jobs.start("search", "tiny.yaml", VALIDATE, *words)
    output, errors = process.communicate(timeout=250)
    assert process.returncode == 0, output + errors
    return str(output)


def table(output: str) -> list[str]:
    """The rows of the last table, and what follows them."""
    lines = [" ".join(line.split()) for line in output.splitlines()]
    start = max(number for number, line in enumerate(lines) if line.startswith("trial muon_lr clip_norm"))
    return lines[start:]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_is_killed_ends_as_an_undisturbed_one_and_its_best_command_trains(tiny: Path, jobs: Any) -> None:
    with tiny.open("a") as file:
        file.write(SEARCH.lstrip("\n"))
    whole = table(search(jobs, "--runs", "whole"))
    assert any("best" in line for line in whole)
    assert any("pruned at step" in line for line in whole)
    assert any(line.startswith("3 trials: ") for line in whole)
    # Killed in a trial's training, it goes on; what is finished is not made again.
    runs = tiny.parent / "runs"
    (process,) = jobs.start("search", "tiny.yaml", VALIDATE)
    state = runs / "tiny" / "trial-001" / "0" / "state.json"
    while process.poll() is None and not (state.exists() and '"image_base"' in state.read_text()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    disturbed = table(search(jobs))
    assert [line.replace(" --runs whole", "").replace("whole/", "runs/") for line in whole] == disturbed
    command = next(line for line in disturbed if line.startswith("Train it: ")).removeprefix("Train it: ")
    words = [*shlex.split(command)[1:], "--runs", str(runs)]
    words[1] = str(tiny)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    best = next(line for line in disturbed if line.startswith("The best is "))
    variant = next(word for word in words if word.startswith("variant=")).removeprefix("variant=")
    losses = json.loads((runs / "tiny" / variant / "0" / "metrics.json").read_text())["held_out"]
    assert f"held_out.image_base {losses['image_base']['loss']:.6g}:" in best
    compared = CliRunner().invoke(app, ["compare", str(runs / "tiny")], env={"COLUMNS": "1000"})
    assert compared.exit_code == 0, compared.output
    assert all(f"trial-00{number}" in compared.output for number in range(3))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trials_side_by_side_share_stages_and_a_metric_may_be_the_target(tiny: Path, jobs: Any) -> None:
    with tiny.open("a") as file:
        file.write(SEARCH.lstrip("\n"))
    words = ["search.target=metrics.generated.oracle.present", "search.trials=2", "search.prune=null", "--jobs", "2"]
    output = search(jobs, *words)
    runs = tiny.parent / "runs"
    assert "2 trials: 2 finished, 0 pruned, 0 failed." in output
    assert len(list(runs.glob("tiny/trial-*/0/metrics.json"))) == 2
    assert len(list(runs.glob("stages/tokenizer-*/stage.json"))) == 1
    assert len(list(runs.glob("stages/image_base-*/stage.json"))) == 2
