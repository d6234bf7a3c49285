"""`cogvid data`: what a data set is made of, and what becomes of it."""

from __future__ import annotations

import typer

app = typer.Typer(help="Check, show and tokenise the clips of a data set.", no_args_is_help=True)
