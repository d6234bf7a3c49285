"""The reference of the commands, made from the command line itself."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click

from cogvid.cli import app


def commands() -> str:
    """Every command with its arguments and options, a heading each."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="cogvid")
    text = get_docs_for_click(obj=command, ctx=context, name="cogvid", indent=1)
    # The lists of a group's commands have their first words alone; each of them follows with all it says.
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text).strip()
