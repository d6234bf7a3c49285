"""Kill -9, SIGTERM and Ctrl-C at random moments of two variants, side by side: nothing of it is seen in the end.

COGVID_INTERRUPTIONS=40 says how often; a few times by default.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

VARIANTS = ("local", "all")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = int(os.environ.get("COGVID_INTERRUPTIONS", "2"))
# Long enough for signals to meet them, with steps that no checkpoint is at.
TRAININGS = [
    f"stages.{stage}.{change}"
    for stage in ("tokenizer", "image_base", "sequential", "interpolation")
    for change in ("steps=60", "checkpoint_every=7")
]


class Variants:
    """The processes of all variants below one folder of runs; `fork` makes them."""

    def __init__(self, experiment: Path, runs: Path, fork: Callable[..., Any]) -> None:
        self.experiment, self.runs, self.fork = experiment, runs, fork
        self.running: dict[str, Any] = {}
        self.met_training, self.started = 0, 0

    def start(self, variant: str) -> None:
        words = ["run", str(self.experiment), *TRAININGS, "--runs", str(self.runs), "--variant", variant]
        words.append(f"trainer.workers={self.started % 3}")
        self.started += 1
        self.running[variant] = self.fork(*words)

    def finish(self) -> None:
        for process in self.running.values():
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said

    def interrupt(self, variant: str, signum: signal.Signals, after: float) -> bool:
        """Whether a signal reached a process that had not ended by itself before."""
        process = self.running[variant]
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
        _, said = process.communicate(timeout=60)
        if process.returncode == 0:
            return False
        # A process that has not come as far as the command yet, or is through with it, just dies of the signal.
        assert process.returncode in (128 + signum, -signum), (process.returncode, said)
        if process.returncode > 0:
            assert "Traceback" not in said, said
            assert said.count("Error: Interrupted by") == 1, said
            self.met_training += "goes on from step" in said
        return True


def stages(runs: Path) -> dict[str, Path]:
    return {path.name: path for path in (runs / "stages").iterdir()}


def events(stage: Path) -> Iterator[tuple[str, int]]:
    for file in (stage / "events").glob("events.out*"):
        for event in EventFileLoader(str(file)).Load():
            yield from ((value.tag, event.step) for value in event.summary.value)


def left(stage: Path) -> dict[str, Any]:
    """All that a stage leaves and that does not tell of time: its files' SHA-256, its history, its steps."""
    history = stage / "history.jsonl"
    return {
        "outputs": json.loads((stage / "stage.json").read_text())["outputs"],
        "history": history.read_text() if history.exists() else None,
        "steps": Counter(event for event in events(stage) if not event[0].startswith("samples/")),
    }


def assert_same(runs: Path, whole: Path, variants: Sequence[str] = VARIANTS) -> None:
    assert stages(runs).keys() == stages(whole).keys()
    for name, stage in stages(runs).items():
        assert left(stage) == left(stages(whole)[name]), name
        # A preview that a signal cuts short is not made up for; none comes twice.
        previews = Counter(event for event in events(stage) if event[0].startswith("samples/"))
        assert previews <= Counter(events(stages(whole)[name])), name
        assert not [*stage.rglob("*.partial"), *stage.rglob("checkpoints")], name
    for variant in variants:
        one, other = (
            json.loads((folder / "tiny" / variant / "0" / "metrics.json").read_text()) for folder in (runs, whole)
        )
        assert (one["sets"], one["protocols"]) == (other["sets"], other["protocols"])


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * TIMES)
def test_interrupted_at_random_moments_two_variants_end_as_if_undisturbed(
    tiny: Path, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    draw = random.Random(TIMES)
    whole = Variants(tiny, tmp_path / "whole", fork)
    started = time.monotonic()
    for variant in VARIANTS:
        whole.start(variant)
    whole.finish()
    seconds = time.monotonic() - started
    done, trial, met_training = 0, 0, 0
    while done < TIMES:
        disturbed = Variants(tiny, tmp_path / f"disturbed-{trial}", fork)
        trial += 1
        for variant in VARIANTS:
            disturbed.start(variant)
        while done < TIMES:
            variant = draw.choice(VARIANTS)
            if not disturbed.interrupt(variant, SIGNALS[done % 3], draw.uniform(0.05, 0.6) * seconds):
                break
            done += 1
            disturbed.start(variant)
        disturbed.finish()
        met_training += disturbed.met_training
        assert_same(disturbed.runs, whole.runs)
    print(f"{met_training} of {done} interruptions met a training between its steps, in {trial} trials")
    assert met_training or TIMES < 40


@pytest.mark.parametrize(
    ("signum", "processes"),
    [(signal.SIGINT, "workers=2"), (signal.SIGTERM, "workers=2"), (signal.SIGTERM, "devices=2")],
)
def test_a_signal_to_all_processes_of_a_training_is_one_line_and_the_end_of_them(
    tiny: Path, tmp_path: Path, fork: Callable[..., Any], signum: signal.Signals, processes: str
) -> None:
    words = ["run", str(tiny), "--runs", str(tmp_path), "stages.tokenizer.steps=20000", f"trainer.{processes}"]
    process = fork(*words)
    try:
        while process.poll() is None and not list(tmp_path.glob("stages/tokenizer-*/checkpoints/step-*")):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        os.killpg(process.pid, signum)
        # It ends when the last of the processes has closed it.
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signum, said
    assert "Traceback" not in said
    assert said.count("Error:") == 1
    (step,) = re.findall(rf"Error: Interrupted by {signum.name}\. tokenizer goes on from step (\d+) ", said)
    assert len(list(tmp_path.glob(f"stages/tokenizer-*/checkpoints/step-{int(step):08d}/state.json"))) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_terminated_in_a_training_end_with_the_same_bits(
    tiny: Path, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    def start(runs: Path) -> Any:
        few = [change.replace("steps=60", "steps=24") for change in TRAININGS]
        words = ["run", str(tiny), *few, "--runs", str(runs), "--variant", "local", "trainer.devices=2"]
        return fork(*words, "stages.sequential.ema=0.9")

    whole, disturbed = start(tmp_path / "whole"), tmp_path / "disturbed"
    _, said = whole.communicate(timeout=240)
    assert whole.returncode == 0, said
    for stage in ("tokenizer", "sequential"):
        process = start(disturbed)
        while process.poll() is None and not list(disturbed.glob(f"stages/{stage}-*/checkpoints/step-*")):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM, said
        assert f"{stage} goes on from step" in said
    process = start(disturbed)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert_same(disturbed, tmp_path / "whole", ["local"])
