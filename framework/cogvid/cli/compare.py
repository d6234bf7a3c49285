"""`cogvid compare`: variants side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.compare import Comparison


class Format(StrEnum):
    """What a comparison is written as."""

    table = "table"
    html = "html"
    csv = "csv"
    latex = "latex"
    markdown = "markdown"
    json = "json"


_SUFFIXES = {
    ".html": Format.html,
    ".csv": Format.csv,
    ".tex": Format.latex,
    ".md": Format.markdown,
    ".json": Format.json,
}


def register(app: typer.Typer) -> None:
    """Add the command `compare`."""
    app.command("compare")(_compare)


def _compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run, variant or experiment folders; files written by cogvid evaluate --out."),
    ],
    baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare with this variant instead of the first.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show all columns, not the headline alone.")] = False,
    form: Annotated[
        Format | None, typer.Option("--format", help="What to print, or to write where FILE's suffix does not say it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a file too: .html is a report; .csv, .tex, .md and .json tables."),
    ] = None,
) -> None:
    """Compare variants: quality, cost, and what was measured how."""
    from cogvid.compare import compare, find_runs

    written = _format_of(out, form)
    comparison = compare(find_runs(runs), baseline)
    if out is None:
        _print(comparison, form or Format.table, everything)
        return
    _print(comparison, Format.table, everything)
    _write(comparison, written, out, everything)
    typer.echo(f"Written: {out}", err=True)


def _format_of(out: Path | None, form: Format | None) -> Format:
    """What to write, decided before anything is read."""
    if out is None:
        if form is Format.html:
            raise UserError("--format html: the report is a file; name one with --out report.html.")
        return Format.table
    found = form or _SUFFIXES.get(out.suffix.lower())
    if found is None or found is Format.table:
        raise UserError(f"--out {out}: the suffix says what to write, and is one of {', '.join(_SUFFIXES)}.")
    return found


def _print(comparison: Comparison, form: Format, everything: bool) -> None:
    from rich.console import Console

    from cogvid.compare import print_comparison

    if form is Format.table:
        print_comparison(comparison, Console(), everything)
    else:
        typer.echo(_text(comparison, form, everything), nl=False)


def _write(comparison: Comparison, form: Format, out: Path, everything: bool) -> None:
    if form is Format.html:
        from cogvid.compare.report import write_report

        write_report(comparison, out)
        return
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(_text(comparison, form, everything), encoding="utf-8")
        partial.replace(out)
    except OSError as error:
        raise UserError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from error
    finally:
        partial.unlink(missing_ok=True)


def _text(comparison: Comparison, form: Format, everything: bool) -> str:
    from cogvid.compare.export import to_csv, to_json
    from cogvid.compare.papers import to_latex, to_markdown

    if form in (Format.csv, Format.json):
        return to_csv(comparison) if form is Format.csv else to_json(comparison)
    return to_latex(comparison, everything) if form is Format.latex else to_markdown(comparison, everything)
