"""`cogvid convert`: runs from what others have released, and files for others from runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the command group `convert`."""
    convert = typer.Typer(no_args_is_help=True, help="Convert released models to runs, and runs to files to share.")
    convert.command()(released)
    convert.command()(export)
    app.add_typer(convert, name="convert")


def released(
    folder: Annotated[Path, typer.Argument(help="Folder that has the files of the 2022 release somewhere below it.")],
    out: Annotated[Path, typer.Argument(help="Folder of the run that is made of them; it must not exist.")],
    heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads; one for each 64 channels if not given.")
    ] = None,
) -> None:
    """Make a run of CogVideo as released in 2022, to sample from or to train further."""
    from cogvid.pipeline.convert_released import convert_released

    converted = convert_released(folder, out, heads)
    for name, parameters in converted.parameters.items():
        _print(f"{name}: {parameters:,} parameters")
    if converted.other_base is None:
        _print("Both stages are built on the same image model.")
    else:
        _print(
            f"The stages are built on different image models: {converted.other_base} is another in stage 2. The first "
            "frame comes from that of stage 1; each stage keeps its own."
        )
    _print(f'{out} is a run: cogvid sample {out} "..." makes videos with it.')


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    out: Annotated[Path, typer.Argument(help="Folder to make; it must not exist.")],
    released: Annotated[
        bool, typer.Option("--released", help="Names and files of the 2022 release, as its own code reads them.")
    ] = False,
) -> None:
    """Make a folder to share: weights, configuration and a model card, from which `cogvid sample` works anywhere."""
    if released:
        from cogvid.pipeline.export_released import export_released

        export_released(run, out)
    else:
        from cogvid.pipeline.export import export_run

        export_run(run, out)
    _print(str(out))


def _print(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
