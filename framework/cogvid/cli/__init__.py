"""The command `cogvid`. Each module below has the function `register`, which adds its commands.

Command bodies import what they need: `cogvid --help` must not wait for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cogvid.cli import (
    ablate,
    bench,
    compare,
    config,
    convert,
    data,
    doctor,
    evaluate,
    inspect,
    new_plugin,
    overview,
    plugins,
    run,
    sample,
    search,
)
from cogvid.cli.errors import plain_errors


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with plain_errors(debug=ctx.params["debug"]):
            return super().invoke(ctx)


app = typer.Typer(
    name="cogvid",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    run,
    ablate,
    search,
    sample,
    convert,
    evaluate,
    compare,
    overview,
    config,
    data,
    inspect,
    doctor,
    bench,
    plugins,
    new_plugin,
):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cogvid {version('cogvid')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="COGVID_DEBUG", help="Show the traceback of an error.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A laboratory for autoregressive text-to-video transformers."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends with `SystemExit`.

    Args:
        arguments: what follows `cogvid`; of this process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # An option of `cogvid` itself, but where it is wanted one has just typed the rest.
    words.sort(key=lambda word: word != "--debug")
    app(words)
