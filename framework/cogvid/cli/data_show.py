"""`cogvid data show`: random samples of an experiment's data as its models see them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogvid.cli.run import Runs, Wait


def register(data: typer.Typer) -> None:
    """Add the command."""
    data.command()(show)


def show(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Samples to draw.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws others.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For a page and a picture, in place of older ones; data-NAME by default."),
    ] = None,
    runs: Runs = Path("runs"),
    wait: Wait = True,
) -> None:
    """Draw training samples and write them as a page and a contact sheet: frames at the drawn rate, their
    reconstruction if the frame tokenizer is trained, the text, and where they are from."""
    from cogvid.config.compose import load_experiment
    from cogvid.inspect.data_page import write_samples
    from cogvid.inspect.data_samples import draw_samples, store_of
    from cogvid.pipeline.check import check_folder
    from cogvid.pipeline.lab import Lab
    from cogvid.pipeline.logs import log_to_terminal

    log_to_terminal()
    resolved = load_experiment(experiment, variant, overrides or [])
    folder = out or Path(f"data-{resolved.config.name}")
    check_folder(folder, "--out")
    samples = draw_samples(Lab(resolved.config, resolved.provenance), store_of(runs, wait), count, seed)
    if not samples.tokenized:
        print("The frame tokenizer is not trained yet: no reconstructions.")
    for path in write_samples(samples, folder):
        print(path)
