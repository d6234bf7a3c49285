"""`cogvid data check`: what is wrong with a data set, before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from cogvid.inspect.data_check import Checked
    from cogvid.inspect.data_report import DataReport, Finding


def register(data: typer.Typer) -> None:
    """Add the command."""
    data.command()(check)


def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH|EXPERIMENT",
            help="A folder of videos or tar shards, one of these, or an experiment by name or YAML file.",
        ),
    ],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes of an experiment.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The table of all clips, .csv or .arrow; by default clips.csv, or clips-2.csv, ..."
        ),
    ] = None,
) -> None:
    """Decode every clip to its last frame, say what is wrong by kind, and write a table of all clips.

    Nothing is moved, and nothing is written but the table. The exit code is 1 if no clip can be used.
    """
    from rich.console import Console

    from cogvid.inspect.data_report import DataReport

    file = _table_file(out, Path(target))
    report = DataReport(_checked(target, overrides or [], variant))
    _print(Console(), report)
    report.write(file)
    usable, clips = int(report.usable.sum()), len(report.usable)
    print(f"{usable:,} of {clips:,} clips can be used. All of them: {file}")
    if not report.trains:
        raise UserError(f"{target}: there is no clip to train on.")


def _checked(target: str, overrides: Sequence[str], variant: str | None) -> Checked:
    from cogvid.config.compose import load_experiment
    from cogvid.config.sources import YAML_SUFFIXES
    from cogvid.inspect.data_check import check_experiment, check_path

    path = Path(target)
    if os.path.lexists(path) and path.suffix not in YAML_SUFFIXES and not overrides and variant is None:
        return check_path(path)
    try:
        resolved = load_experiment(target, variant, overrides)
    except UserError as error:
        if os.path.lexists(path) or overrides or variant is not None:
            raise
        raise UserError(f"There is no file or folder {target!r}, and as an experiment: {error}") from error
    return check_experiment(resolved)


def _table_file(out: Path | None, target: Path) -> Path:
    """Where the table goes; known before minutes of work.

    Raises:
        UserError: there is such a file, no such folder, or none that it may go to by itself.
    """
    from cogvid.inspect.data_report import SUFFIXES

    if out is None:
        if target.is_dir() and Path.cwd().is_relative_to(target.resolve()):
            raise UserError(f"The table of all clips would lie among the videos of {target}: name a file with --out.")
        return next(file for file in _names() if not file.exists())
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: the name of the table ends in {' or '.join(SUFFIXES)}.")
    if os.path.lexists(out):
        raise UserError(f"--out {out}: there is such a file; it is left as it is. Name another.")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}.")
    return out


def _names() -> Iterator[Path]:
    yield Path("clips.csv")
    yield from (Path(f"clips-{number}.csv") for number in count(2))


def _print(console: Console, report: DataReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from cogvid.inspect.data_report import printable

    checked = report.checked
    totals = Table(title=Text(printable(checked.name)), title_justify="left", show_header=False)
    for name, value in report.totals():
        if value:
            totals.add_row(name, Text(value))
    console.print(totals)
    _print_findings(console, "Left out", report.left_out())
    _print_findings(console, "Used, but", report.remarks())
    for name, messages in (("The data source says", checked.said), ("A run would stop", checked.stops)):
        for message in messages:
            console.print(Text(f"{name}: ", style="bold").append(printable(message), style="default"), soft_wrap=True)
    if checked.passed_over:
        kinds = ", ".join(f"{printable(name)} ({count:,})" for name, count in checked.passed_over.most_common(10))
        console.print(Text(f"Files that are no videos by their names: {kinds}"), soft_wrap=True)


def _print_findings(console: Console, title: str, findings: Sequence[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from cogvid.inspect.data_report import printable

    if not findings:
        return
    table = Table("why", "clips", "such as", title=title, title_justify="left")
    table.columns[1].justify = "right"
    table.columns[2].overflow = "fold"
    for finding in findings:
        table.add_row(Text(printable(finding.kind)), f"{finding.clips:,}", Text(printable(_shown(finding.example))))
    console.print(table)


def _shown(file: str) -> str:
    """A file's name for people: relative inside the current folder."""
    return file.replace(f"{Path.cwd()}{os.sep}", "")
