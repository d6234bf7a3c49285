"""`cogvid compare`: variants side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command `compare`."""
    app.command("compare")(_compare)


def _compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run, variant or experiment folders; the first variant is the baseline."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report too: one self-contained HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare variants: quality, cost, and what was measured how."""
    from rich.console import Console

    from cogvid.compare import compare, find_runs, print_comparison, write_report
    from cogvid.compare.export import to_json

    comparison = compare(find_runs(runs))
    if as_json:
        typer.echo(to_json(comparison))
    else:
        print_comparison(comparison, Console())
    if out is not None:
        write_report(comparison, out)
        typer.echo(f"Report: {out}", err=True)
