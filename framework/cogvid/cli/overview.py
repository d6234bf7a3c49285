"""`cogvid list`: experiments and fragments that can be named, and runs with what they are at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvid.cli.run import Runs

if TYPE_CHECKING:
    from rich.console import Console

    from cogvid.overview.configuration import Experiment, Fragment
    from cogvid.overview.runs import FoundRun, Phase

Cells = list[tuple[str, str]]
# Columns of what nobody reads on a screen: every entry is one line there, for grep.
_WIDE = 1000
_STYLES: dict[Phase, str] = {
    "finished": "green",
    "at work": "cyan",
    "interrupted": "yellow",
    "failed": "bold red",
    "missing": "dim",
}


class Part(StrEnum):
    """What is listed."""

    experiments = "experiments"
    fragments = "fragments"
    runs = "runs"


def register(app: typer.Typer) -> None:
    """Add the command `list`."""
    app.command("list")(_list)


def _list(
    part: Annotated[Part | None, typer.Argument(help="One of them; all three by default.")] = None,
    runs: Runs = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List experiments, fragments, and runs with what they are at."""
    from rich.console import Console

    parts = list(Part) if part is None else [part]
    found = {each: _found(each, runs) for each in parts}
    if as_json:
        content = {name: [vars(entry) for entry in entries] for name, entries in found.items()}
        typer.echo(json.dumps(content, indent=2, default=str))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    for name, entries in found.items():
        if name is not parts[0]:
            console.print()
        if entries:
            _show(console, name, entries)
        else:
            console.print(f"There are no runs below {runs}.", markup=False)


def _found(part: Part, runs: Path) -> Sequence[Experiment | Fragment | FoundRun]:
    if part is Part.runs:
        from cogvid.overview.runs import runs_below

        return runs_below(runs)
    from cogvid.overview.configuration import experiments, fragments

    return experiments() if part is Part.experiments else fragments()


def _show(console: Console, part: Part, entries: Sequence[Experiment | Fragment | FoundRun]) -> None:
    from rich.table import Table
    from rich.text import Text

    look = _LOOKS[part]
    table = Table(box=None, pad_edge=False, header_style="dim", title=look.title, title_justify="left")
    for head in look.heads:
        # A name that is cut off cannot be typed.
        table.add_column(head, no_wrap=head not in ("description", "variants", "from", ""))
    for entry in entries:
        table.add_row(*(Text(text, style) for text, style in look.cells(entry)))
    console.print(table)
    for entry in entries:
        if broken := getattr(entry, "broken", ""):
            console.print(f"Broken: {broken}", style="red", markup=False, soft_wrap=True)


def _cells_of_experiment(entry: Experiment) -> Cells:
    said = ("broken, see below", "red") if entry.broken else (entry.description, "")
    return [(entry.name, "bold"), said, (", ".join(entry.variants), ""), (entry.origin, "dim")]


def _cells_of_fragment(entry: Fragment) -> Cells:
    return [(entry.name, "bold"), (entry.description, ""), (entry.override, ""), (entry.origin, "dim")]


def _cells_of_run(entry: FoundRun) -> Cells:
    state = (entry.phase, _STYLES[entry.phase])
    return [(entry.experiment, "bold"), (entry.variant, ""), (str(entry.seed), ""), state, (entry.note, "")]


@dataclass(frozen=True)
class _Look:
    """How a part is shown; `cells` gives an entry's texts with their styles."""

    title: str
    heads: tuple[str, ...]
    cells: Callable[[Any], Cells]


_LOOKS = {
    Part.experiments: _Look(
        "Experiments (cogvid run NAME; with variants, cogvid ablate NAME)",
        ("name", "description", "variants", "from"),
        _cells_of_experiment,
    ),
    Part.fragments: _Look(
        "Fragments (base: [NAME] in an experiment; some on the command line, too)",
        ("name", "description", "command line", "from"),
        _cells_of_fragment,
    ),
    Part.runs: _Look("Runs", ("experiment", "variant", "seed", "state", ""), _cells_of_run),
}
