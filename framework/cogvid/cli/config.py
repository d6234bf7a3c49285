"""`cogvid config`: what an experiment comes to, and which file said so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command `config`."""
    app.command("config")(_config)


def _config(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the values alone, as YAML.")] = False,
) -> None:
    """Print an experiment's values, and where each came from."""
    from rich.console import Console
    from rich.text import Text

    from cogvid.config import load_experiment

    resolved = load_experiment(experiment, variant, overrides or ())
    if as_yaml:
        typer.echo(resolved.to_yaml(), nl=False)
        return
    lines = list(_lines(asdict(resolved.config), resolved.provenance))
    column = min(60, max(len(line) for line, _ in lines))
    console = Console(highlight=False)
    for line, source in lines:
        style = "dim" if source == "default" else "cyan"
        console.print(Text(f"{line:{column}}  ").append(source, style), soft_wrap=True)
    if resolved.variants:
        console.print(Text(f"variants: {', '.join(resolved.variants)}", "dim"), soft_wrap=True)


def _lines(tree: dict[str, Any], sources: dict[str, str], above: str = "") -> Iterator[tuple[str, str]]:
    """Each key with its value, indented, and its source."""
    indent = "  " * above.count(".")
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:", ""
            yield from _lines(value, sources, f"{above}{name}.")
        else:
            value = value.name if isinstance(value, Enum) else value
            shown = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
            yield f"{indent}{name}: {shown}", sources[above + name]
