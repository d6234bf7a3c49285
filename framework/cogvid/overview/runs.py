"""The runs below a folder, and what each of them is at."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogvid.ablation.state import lock_owner, read_state
from cogvid.compare.find import run_folders
from cogvid.compare.read import METRICS
from cogvid.compare.trouble import LOG, at_work, what_ended

Phase = Literal["finished", "at work", "interrupted", "failed", "missing"]
# How the log names what a user's Ctrl-C or a cluster's signal ended.
_INTERRUPTED = ("ended by Interrupted:", "ended by KeyboardInterrupt:")


@dataclass(frozen=True)
class FoundRun:
    """A run's folder.

    Attributes:
        phase: `missing` is what an ablation lists and nobody has begun.
        note: when it was finished, what it is at, or why it ended.
    """

    experiment: str
    variant: str
    seed: int
    folder: Path
    phase: Phase
    note: str = ""


def runs_below(root: Path) -> list[FoundRun]:
    """The runs of all experiments below a folder: experiments by name, runs of each as `cogvid compare` orders them.

    Args:
        root: the folder of all runs, which need not be there.
    """
    # Locks, states and logs tell all of it: nothing that takes longer the longer a run has trained is read.
    experiments = sorted(folder for folder in root.absolute().glob("*") if folder.is_dir())
    folders = {run: there for experiment in experiments for run, there in run_folders(experiment).items()}
    busy = {run: lock_owner(run) for run in folders if at_work(run / ".lock")}
    titles = {owner: f"{run.parent.name}, seed {run.name}" for run, owner in busy.items()}
    return [_found(run, there, busy, titles) for run, there in folders.items()]


def _found(run: Path, there: bool, busy: Mapping[Path, str], titles: Mapping[str, str]) -> FoundRun:
    return FoundRun(run.parents[1].name, run.parent.name, int(run.name), run, *_phase(run, there, busy, titles))


def _phase(run: Path, there: bool, busy: Mapping[Path, str], titles: Mapping[str, str]) -> tuple[Phase, str]:
    if run in busy:
        return "at work", _at(run, busy[run], titles)
    if (run / METRICS).is_file():
        return "finished", time.strftime("%Y-%m-%d %H:%M", time.localtime((run / METRICS).stat().st_mtime))
    if not there and not (run / LOG).is_file():
        return "missing", ""
    ended = what_ended(run)
    return "interrupted" if ended.startswith(_INTERRUPTED) else "failed", ended


def _at(run: Path, owner: str, titles: Mapping[str, str]) -> str:
    """What a run is at whose process lives."""
    state = read_state(run, owner, titles)
    step = "" if state.step is None else f"step {state.step}" + (f" of {state.steps}" if state.steps else "")
    loss = "" if state.loss is None else f"loss {state.loss:.4f}"
    note = state.note or ("starting" if state.phase == "starting" else "")
    return ", ".join(part for part in (state.stage, step, loss, note) if part)
