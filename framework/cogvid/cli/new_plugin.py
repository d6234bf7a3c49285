"""`cogvid new-plugin`: the package of a plugin of one's own, to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cogvid.errors import UserError
from cogvid.interfaces.component import KINDS


def register(app: typer.Typer) -> None:
    """Add the command `new-plugin`."""
    app.command("new-plugin")(_new_plugin)


def _new_plugin(
    name: Annotated[str, typer.Argument(help="What experiments will call it, such as my_window.")],
    kind: Annotated[str, typer.Option(help=f"Of component: {', '.join(KINDS)}.")],
    folder: Annotated[Path | None, typer.Option(help="Of the package; one of its name by default.")] = None,
) -> None:
    """Write a package with a plugin that works, its test and an experiment that ablates it."""
    from cogvid.scaffold.package import check_folder, named, write_package

    plugin = named(name, kind)
    folder = Path(name) if folder is None else folder
    check_folder(folder)

    # Only what registers components knows their names: this takes as long as any work on models takes to begin.
    from cogvid.plugins.manager import create_plugin_manager

    for info in create_plugin_manager().components():
        if (info.kind, info.name) == (plugin.kind, plugin.name):
            raise UserError(f"There is a {kind} component {name!r} already, of {info.origin}; choose another name.")
    files = write_package(plugin, folder)
    typer.echo(f"Wrote {', '.join(files)} into {folder}. Next:")
    for command in (
        f"cd {shlex.quote(str(folder))}",
        "pip install -e .",
        "python -m pytest -q",
        f"cogvid ablate {plugin.experiment}.yaml",
        f"cogvid compare runs/{plugin.experiment} --out report.html",
    ):
        typer.echo(f"  {command}")
