"""`cogvid ablate`: runs as processes of their own, of which one may fail, and all may be killed and go on."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from helpers import results

# A frame tokenizer that can do all but be trained: nothing of that is seen before.
MISTAKE = 'raise RuntimeError("out of [ideas]")'
CRASH = f"""
import cogvid
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE

class Crash(VQVAE):
    def training_loss(self, frames):
        {MISTAKE}

@cogvid.hookimpl
def register_frame_tokenizers():
    return {{"crash": Crash}}
"""
FOUR = """
  bad: {frame_tokenizer: {name: crash, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}}
  wide: {model: {width: 48}}
plugins: [./crash.py]
"""
FEW = [f"stages.{stage}.steps=2" for stage in ("tokenizer", "image_base", "sequential", "interpolation")]


def finish(jobs: Any, *words: str, code: int = 0) -> str:
    """What `cogvid ablate` says until it ends with this exit code."""
    (process,) = jobs.start("ablate", "tiny.yaml", *FEW, *words)
    output, errors = process.communicate(timeout=250)
    assert process.returncode == code, output + errors
    assert not errors
    return str(output)


def made(runs: Path) -> dict[str, int]:
    """When each finished stage was."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("stages/*/stage.json")}


def cogvid(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "1000"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_four_variants_one_fails_three_finish_and_everything_says_why(tiny: Path, jobs: Any) -> None:
    (tiny.parent / "crash.py").write_text(CRASH)
    with tiny.open("a") as file:
        file.write(FOUR.lstrip("\n"))
    output = finish(jobs, "--jobs", "2", code=1)
    runs = tiny.parent / "runs"
    bad = runs / "tiny" / "bad" / "0"
    assert "3 of 4 runs are finished." in output
    assert "  bad, seed 0 failed: RuntimeError: out of [ideas]. All it said: runs/tiny/bad/0/output.txt" in output
    assert re.search(r"^\w+, seed 0: \w+: waiting for \w+, seed 0$", output, re.MULTILINE)
    assert "Compare them: cogvid compare runs/tiny" in output
    assert "Traceback" not in output
    assert "Traceback" in (bad / "output.txt").read_text()
    assert sorted(results(runs)) == ["tiny/all/0", "tiny/local/0", "tiny/wide/0"]
    assert re.search(r"tiny/bad/0 +ended by RuntimeError: out of \[ideas\]", cogvid("compare", runs / "tiny"))
    # Again: what failed is tried once more, by a plugin that has been mended, and nothing else is made again.
    first = made(runs)
    (tiny.parent / "crash.py").write_text(CRASH.replace(MISTAKE, "return super().training_loss(frames)"))
    assert "4 of 4 runs are finished." in finish(jobs, "--jobs", "2")
    assert made(runs).items() > first.items()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_ablation_that_is_killed_twice_ends_as_an_undisturbed_one(tiny: Path, jobs: Any) -> None:
    finish(jobs, "--jobs", "2", "--runs", "whole")
    disturbed = tiny.parent / "disturbed"
    for stage in ("image_base", "interpolation"):
        (process,) = jobs.start("ablate", "tiny.yaml", *FEW, "--jobs", "2", "--runs", "disturbed")
        while process.poll() is None and not list(disturbed.glob(f"stages/{stage}-*/history.jsonl")):
            time.sleep(0.02)
        # Its session is its own: the runs are in others, and end because it does.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    output = finish(jobs, "--jobs", "2", "--runs", "disturbed")
    assert "2 of 2 runs are finished." in output
    assert len(results(disturbed)) == 2
    assert results(disturbed) == results(tiny.parent / "whole")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_ablation_that_is_asked_to_end_leaves_checkpoints_and_no_process(tiny: Path, jobs: Any) -> None:
    (process,) = jobs.start("ablate", "tiny.yaml", "stages.tokenizer.steps=20000", "--jobs", "2")
    stages = tiny.parent / "runs" / "stages"
    while process.poll() is None and not list(stages.glob("tokenizer-*/checkpoints/step-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output + errors
    assert "Traceback" not in output + errors
    assert "Error: Interrupted by SIGTERM. Run the command again to go on with what is not finished." in errors
    said = [path.read_text() for path in tiny.parent.glob("runs/tiny/*/0/output.txt")]
    assert sum("Error: Interrupted by SIGTERM. tokenizer goes on from step" in text for text in said) == 1
    started = [path.read_text().split()[0] for path in tiny.parent.glob("runs/tiny/*/0/.lock")]
    assert len(started) == 2
    assert not any(Path("/proc", number).exists() for number in started)
