"""Shows trials: a table that changes on a terminal; elsewhere a line for each change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cogvid.ablation.state import State
from cogvid.ablation.table import clock, say, told
from cogvid.compare.variants import shortened
from cogvid.search.trial import Phase, Trial

_STYLES: dict[Phase, str] = {"running": "cyan", "finished": "green", "pruned": "yellow", "failed": "bold red"}
# Columns of a console that is no terminal, and cuts nothing off.
_WIDE = 400


class Shown:
    """Shows trials while the block runs; on a terminal nothing stays, since all is printed in the end.

    Args:
        console: to show them on.
        target: its name.
        known: numbers of trials of which everything has been said.
    """

    def __init__(self, console: Console, target: str, known: Sequence[int] = ()) -> None:
        self._console, self._target = console, target
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._told: dict[int, str] = dict.fromkeys(known, "")
        self._known = frozenset(known)

    def __enter__(self) -> Shown:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, trials: Sequence[Trial], states: Mapping[int, State]) -> None:
        """Show all trials, and what the runs of some of them are at."""
        if self._live is not None:
            self._live.update(table(trials, states, self._target))
            return
        for trial in trials:
            if trial.number in self._known:
                continue
            if trial.number not in self._told:
                say(self._console, f"{trial.title}: {' '.join(trial.changes)}")
            state = states.get(trial.number)
            line = outcome(trial, self._target) if trial.phase != "running" else told(state) if state else ""
            if line and self._told.get(trial.number) != line:
                say(self._console, f"{trial.title}: {line}")
            self._told[trial.number] = line or self._told.get(trial.number, "")

    def say(self, line: str) -> None:
        """A line of its own."""
        say(self._console, line)


def outcome(trial: Trial, target: str) -> str:
    """What came of a trial, in words."""
    if trial.phase == "finished":
        return f"finished, {target} {trial.value:.6g}"
    return {"pruned": f"pruned {trial.note}", "failed": f"failed: {trial.note}"}.get(trial.phase, trial.phase)


def table(trials: Sequence[Trial], states: Mapping[int, State], target: str, best: int | None = None) -> Table:
    """All trials, a row each.

    Args:
        trials: by number.
        states: of the runs that are at work, by the numbers of their trials.
        target: its name.
        best: the number of the trial to mark; None for none.
    """
    keys = list(trials[0].values) if trials else []
    short = shortened(keys)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("trial", *(short[key] for key in keys), target):
        shown.add_column(name, justify="right", no_wrap=True)
    live = bool(states)
    for name in ("stage", "step", "held-out loss", "time left") if live else ():
        shown.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    shown.add_column("", no_wrap=True, overflow="ellipsis")
    for trial in trials:
        state = states.get(trial.number) if trial.phase == "running" else None
        value = "" if trial.value is None else f"{trial.value:.6g}"
        words = {"failed": f"failed: {trial.note}", "pruned": f"pruned {trial.note}"}.get(trial.phase, trial.phase)
        if state is not None:
            words = state.note or state.phase
        if trial.number == best:
            words = "best"
        shown.add_row(
            str(trial.number),
            *(Text(trial.values[key]) for key in keys),
            value,
            *(_progress(state) if live else ()),
            Text(words, style=_STYLES[trial.phase]),
        )
    return shown


def print_table(console: Console, trials: Sequence[Trial], target: str, best: int | None) -> None:
    """The table of a search that is over, whole."""
    wide = console if console.is_terminal else Console(file=console.file, width=_WIDE)
    wide.print(table(trials, {}, target, best))


def _progress(state: State | None) -> tuple[str, str, str, str]:
    """Stage, step, held-out loss and time left."""
    if state is None:
        return "", "", "", ""
    step = "" if state.step is None else f"{state.step}/{state.steps}" if state.steps else str(state.step)
    loss = "" if state.held_out is None else f"{state.held_out:.4f}"
    return state.stage, step, loss, clock(state.left)
