"""Scores a finished run again, by other metrics: nothing is trained, and nothing generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.interfaces.token_source import TokenSource
from cogvid.pipeline.check import check_metrics
from cogvid.pipeline.evaluate import METRICS, VIDEOS, evaluation_stage, run_sets, write_metrics
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import held_out_losses, saved_run
from cogvid.pipeline.stage import DONE, Info, StageResult, StageStore, owned, read_stage
from cogvid.pipeline.video_set import VideoSet


@dataclass(frozen=True)
class FinishedRun:
    """A run that has samples to score.

    Attributes:
        folder: of the run.
        lab: its experiment, with the metrics that are wanted now.
        data, samples: its stages.
        speed: the stage that says how fast its decoding is; the samples where that made them.
    """

    folder: Path
    lab: Lab
    data: StageResult
    samples: StageResult
    speed: StageResult

    @property
    def reference(self) -> VideoSet:
        """The real clips that its samples are compared with."""
        return run_sets(self.lab, self.data, self.samples).reference


def finished_run(folder: Path, changes: Sequence[str] = ()) -> FinishedRun:
    """A finished run, checked as far as it can be without reading a video.

    Args:
        folder: of the run.
        changes: `key=value` of the evaluation, or `evaluation=fragment`.

    Raises:
        UserError: it is no finished run, its samples are gone, a change is of something else, or a metric cannot do
            its work; the message names the run.
    """
    saved = folder / "config.yaml"
    if not saved.is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml. Runs are made by `cogvid run`.")
    for change in changes:
        key = change.partition("=")[0].strip()
        if key.partition(".")[0] != "evaluation":
            raise UserError(
                f"{key}: of a finished run, only how it is evaluated can be changed, which is what stands under "
                "`evaluation`. For anything else make another run."
            )
    resolved = load_experiment(str(saved), None, list(changes))
    stages = {name: _stage(folder, path, name) for name, path in (("data", "stages/data"), ("samples", "samples"))}
    lab = Lab(resolved.config, resolved.provenance)
    if isinstance(lab.data, TokenSource):
        raise UserError(f"{folder} was trained on tokens, so that there are no videos to compare its samples with.")
    check_metrics(lab)
    speed = read_stage(folder / "speed", "speed") if (folder / "speed" / DONE).is_file() else stages["samples"]
    return FinishedRun(folder, lab, stages["data"], stages["samples"], speed)


def evaluate_run(run: FinishedRun, wait: bool = True) -> Info:
    """Score the run by its metrics; what `metrics.json` says under other keys stays.

    Args:
        run: of `finished_run`.
        wait: for other processes that are at work on it.

    Returns:
        What `metrics.json` holds then.

    Raises:
        UserError: a video of the run, or of its data, cannot be read; `metrics.json` stays as it was.
    """
    store = StageStore(run.samples.folder.resolve().parent, wait)
    with owned(run.folder, wait):
        metrics = evaluation_stage(run.lab, store, run.data, run.samples)
        held_out = held_out_losses(saved_run(run.folder)[1])
        write_metrics(run.folder, metrics, run.samples, run.speed, held_out)
        written: Info = json.loads((run.folder / METRICS).read_bytes())
        return written


def _stage(folder: Path, path: str, name: str) -> StageResult:
    place = folder / path
    if not (place / DONE).is_file():
        raise UserError(
            f"{folder} is not finished: its {name} are not there. The run's `cogvid run` command makes them; "
            "`cogvid evaluate` generates and trains nothing."
        )
    stage = read_stage(place, name)
    if name == "samples" and not (place / VIDEOS).is_file():
        raise UserError(f"{folder}: {place / VIDEOS} is gone, and nothing else can be scored. {_again(place)}")
    stage.check()
    return stage


def _again(place: Path) -> str:
    return f"Remove the folder {place.resolve()}: the run's `cogvid run` command makes it again."
