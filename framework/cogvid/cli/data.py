"""`cogvid data`: what a data set holds, and what becomes of it."""

from __future__ import annotations

import typer

from cogvid.cli import data_check, data_show, data_tokenize


def register(app: typer.Typer) -> None:
    """Add the command group `data`."""
    data = typer.Typer(no_args_is_help=True, help="Check, show and tokenise the clips of a data set.")
    data_check.register(data)
    data_show.register(data)
    data_tokenize.register(data)
    app.add_typer(data, name="data")
