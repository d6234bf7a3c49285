"""`cogvid list`: experiments and fragments that can be named, and runs with what they are at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.cli.run import Runs

if TYPE_CHECKING:
    from rich.console import Console

    from cogvid.overview.configuration import Experiment, Fragment
    from cogvid.overview.runs import FoundRun, Phase

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

    titles = {
        Part.experiments: "Experiments (cogvid run NAME; with variants, cogvid ablate NAME)",
        Part.fragments: "Fragments (base: [NAME] in an experiment; some on the command line, too)",
        Part.runs: "Runs",
    }
    heads = {
        Part.experiments: ("name", "description", "variants", "from"),
        Part.fragments: ("name", "description", "command line", "from"),
        Part.runs: ("experiment", "variant", "seed", "state", ""),
    }
    table = Table(box=None, pad_edge=False, header_style="dim", title=titles[part], title_justify="left")
    for head in heads[part]:
        # A name that is cut off cannot be typed.
        table.add_column(head, no_wrap=head not in ("description", "variants", "from", ""))
    for entry in entries:
        table.add_row(*(Text(text, style) for text, style in _cells(entry)))
    console.print(table)


def _cells(entry: Experiment | Fragment | FoundRun) -> list[tuple[str, str]]:
    """Of a row: texts with their styles."""
    from cogvid.overview.configuration import Experiment, Fragment

    if isinstance(entry, Experiment):
        said = (entry.broken, "red") if entry.broken else (entry.description, "")
        return [(entry.name, "bold"), said, (", ".join(entry.variants), ""), (entry.origin, "dim")]
    if isinstance(entry, Fragment):
        return [(entry.name, "bold"), (entry.description, ""), (entry.override, ""), (entry.origin, "dim")]
    state = (entry.phase, _STYLES[entry.phase])
    return [(entry.experiment, "bold"), (entry.variant, ""), (str(entry.seed), ""), state, (entry.note, "")]
