"""Shows what jobs are at: a table that changes on a terminal; elsewhere a line for each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cogvid.ablation.jobs import Work
from cogvid.ablation.state import Phase, State

_STYLES: dict[Phase, str] = {
    "queued": "dim",
    "starting": "dim",
    "waiting": "yellow",
    "running": "cyan",
    "finished": "green",
    "failed": "bold red",
}


class Shown:
    """Shows states while the block runs, and leaves the last table behind.

    Args:
        console: to show them on.
        jobs: in the order of the table.
    """

    def __init__(self, console: Console, jobs: Sequence[Work]) -> None:
        self._console, self._jobs = console, jobs
        self._live = Live(console=console, refresh_per_second=2) if console.is_terminal else None
        self._told: dict[Work, str] = {}

    def __enter__(self) -> Shown:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, states: Mapping[Work, State]) -> None:
        """Show what each job is at."""
        if self._live is not None:
            self._live.update(table(self._jobs, states))
            return
        for job in self._jobs:
            line = told(states[job])
            if self._told.get(job) != line:
                self._told[job] = line
                say(self._console, f"{job.title}: {line}")

    def say(self, line: str) -> None:
        """A line of its own."""
        say(self._console, line)


def say(console: Console, line: str) -> None:
    """Print a line as it is, however long."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def told(state: State) -> str:
    """A line that stays the same as long as nothing but numbers changes."""
    if state.phase == "running":
        return state.stage + (f", {state.steps} steps" if state.steps else "")
    if state.phase == "waiting":
        return f"{state.stage}: {state.note}" if state.stage else state.note
    return f"failed: {state.note}" if state.phase == "failed" else state.phase


def table(jobs: Sequence[Work], states: Mapping[Work, State]) -> Table:
    """All jobs, of one kind, a row each."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in (*jobs[0].cells, "stage"):
        shown.add_column(name, justify="right" if name == "seed" else "left", no_wrap=True)
    for name in ("step", "loss", "held-out loss", "time left"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True, overflow="ellipsis")
    for job in jobs:
        state = states[job]
        step = "" if state.step is None else f"{state.step}/{state.steps}" if state.steps else str(state.step)
        numbers = [_loss(state.loss), _loss(state.held_out), clock(state.left)]
        what = {"failed": f"failed: {state.note}", "waiting": state.note}.get(state.phase, state.phase)
        names = [Text(cell) for cell in job.cells.values()]
        shown.add_row(*names, state.stage, step, *numbers, Text(what, style=_STYLES[state.phase]))
    return shown


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def clock(seconds: float | None) -> str:
    """Of the stage: hours, minutes and seconds."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
