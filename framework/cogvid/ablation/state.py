"""What runs are at, read from their folders while other processes do them."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Standing
from cogvid.compare.trouble import at_work
from cogvid.pipeline.run_state import read_run_state

Phase = Literal["queued", "starting", "waiting", "running", "finished", "failed"]
LOCK = ".lock"
# The end of a history that is read: some hundred lines.
_TAIL = 2**16


@dataclass(frozen=True)
class State:
    """What a job is at.

    Attributes:
        note: what it waits for, or why it failed.
        stage: its name.
        step, steps: of the stage's training; None where there is none, or none is logged yet.
        loss, held_out: the newest of the stage.
        logged: when the last step was, in seconds since the epoch.
        left: seconds until the stage is finished.
    """

    phase: Phase
    note: str = ""
    stage: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    held_out: float | None = None
    logged: float = 0.0
    left: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.phase in ("finished", "failed")


class Watch:
    """Reads states again and again, from which it knows how fast runs are."""

    def __init__(self) -> None:
        self._first: dict[Work, State] = {}

    def states(self, standings: Mapping[Work, Standing]) -> dict[Work, State]:
        """What each job is at."""
        titles = {standing.owner: job.title for job, standing in standings.items() if standing.owner}
        return {job: self._state(job, standing, titles) for job, standing in standings.items()}

    def _state(self, job: Work, standing: Standing, titles: Mapping[str, str]) -> State:
        if standing.phase != "running":
            return State(standing.phase, standing.cause)
        state = read_state(job.folder, standing.owner, titles)
        first = self._first.get(job)
        if state.step is None:
            return state
        if first is None or first.stage != state.stage:
            self._first[job] = state
            return state
        return replace(state, left=_left(first, state))


def _left(first: State, now: State) -> float | None:
    """The seconds until a stage is finished, from two looks at it."""
    if first.step is None or now.step is None or now.steps is None or now.step <= first.step:
        return None
    return (now.logged - first.logged) / (now.step - first.step) * max(0, now.steps - now.step)


def read_state(run: Path, owner: str, titles: Mapping[str, str]) -> State:
    """What a run is at, while its process lives, as far as its launcher knows.

    Args:
        run: its folder.
        owner: `PID HOST` of the process.
        titles: of runs, by the owners of theirs.
    """
    holder = lock_owner(run)
    if holder != owner and _lives(holder, run):
        # That of an earlier attempt, or of one in another terminal.
        return State("waiting", f"waiting for {_who(holder, titles)}")
    if holder != owner or _gone(owner):
        return State("starting")
    said = read_run_state(run)
    if not said.stage:
        return State("starting")
    stage = Path(said.folder)
    holder = lock_owner(stage)
    if holder not in ("", owner):
        return State("waiting", f"waiting for {_who(holder, titles)}", said.stage)
    history = stage / "history.jsonl"
    step, loss, held_out = _newest(history)
    logged = history.stat().st_mtime if step is not None else 0.0
    return State("running", "", said.stage, step, said.steps or None, loss, held_out, logged)


def lock_owner(folder: Path) -> str:
    """Who took the lock of a folder last: whoever takes it writes that into it; empty where nobody did."""
    with suppress(OSError):
        return (folder / LOCK).read_text(encoding="utf-8")
    return ""


def _lives(owner: str, folder: Path) -> bool:
    """Whether the process of this `PID HOST`, which took the lock of a folder last, still has it."""
    if owner.endswith(f" {platform.node()}"):
        return not _gone(owner)
    # Of another machine's processes nothing is seen but the locks that they hold.
    return bool(owner) and at_work(folder / LOCK)


def _gone(owner: str) -> bool:
    """Whether it can be seen from here that there is no process of this `PID HOST` any more."""
    number, _, host = owner.partition(" ")
    if host != platform.node():
        return False
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return True
    except PermissionError:
        return False
    return False


def _who(owner: str, titles: Mapping[str, str]) -> str:
    number, _, host = owner.partition(" ")
    return titles.get(owner) or f"another cogvid process ({number} on {host})"


def _newest(history: Path) -> tuple[int | None, float | None, float | None]:
    """The last step of a stage that was logged, its loss, and the last held-out loss."""
    step, loss, held_out = None, None, None
    for entry in reversed(_entries(history)):
        with suppress(KeyError, TypeError, ValueError):
            step = int(entry["step"]) if step is None else step
        loss = _number(entry, "loss") if loss is None else loss
        held_out = _number(entry, "held_out") if held_out is None else held_out
        if None not in (step, loss, held_out):
            break
    return step, loss, held_out


def _entries(history: Path) -> list[dict[str, Any]]:
    try:
        with history.open("rb") as file:
            file.seek(max(0, history.stat().st_size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    entries = []
    for line in lines:
        with suppress(ValueError):  # half a line, at either end
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
