"""`cogvid plugins`: the components there are, their options, and what is broken."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.interfaces.component import ComponentClass
    from cogvid.interfaces.decoding import Decoding


def register(app: typer.Typer) -> None:
    """Add the command `plugins`."""
    app.command("plugins")(_plugins)


def _plugins(
    experiment: Annotated[
        str | None, typer.Argument(help="Name of an experiment, or a YAML file: list its plugins too.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="One of its variants: list those of its own, too.")] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(metavar="MODULE|./FILE.py", help="A plugin to load; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; '???' is an option without default.")] = False,
) -> None:
    """List the components of all plugins, their options, and plugins that are broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cogvid.config import load_experiment
    from cogvid.plugins.manager import create_plugin_manager

    if variant is not None and experiment is None:
        raise UserError(f"--variant {variant}: name the experiment that has it first.")
    named = load_experiment(experiment, variant).config.plugins if experiment else []
    manager = create_plugin_manager([*named, *(plugin or [])])
    components: list[dict[str, Any]] = [
        {
            "kind": info.kind,
            "name": info.name,
            "plugin": info.plugin,
            "version": info.version,
            "origin": info.origin,
            "options": _options(info.cls),
            **({"exact": cast("type[Decoding]", info.cls).exact} if info.kind == "decoding" else {}),
        }
        for info in manager.components()
    ]
    broken = [{"name": item.name, "origin": item.origin, "cause": item.cause} for item in manager.broken]
    if as_json:
        typer.echo(json.dumps({"components": components, "broken": broken}, indent=2, default=str))
        return
    table = Table("kind", "name", "options", "from", title="Components", title_justify="left")
    for item in components:
        options = "\n".join(
            f"{name} (required)" if default == "???" else f"{name}: {json.dumps(default, default=str)}"
            for name, default in item["options"].items()
        )
        name = item["name"] if item.get("exact", True) else f"{item['name']} (approximate)"
        table.add_row(*map(Text, (item["kind"], name, options, item["origin"])))
    console = Console()
    console.print(table)
    for item in broken:
        console.print(f"Broken: {item['cause']}", style="red", markup=False, soft_wrap=True)


def _options(component: ComponentClass) -> dict[str, Any]:
    from omegaconf import OmegaConf

    options = OmegaConf.to_container(OmegaConf.structured(component.Config), enum_to_str=True)
    return cast(dict[str, Any], options)
