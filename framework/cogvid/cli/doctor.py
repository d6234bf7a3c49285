"""`cogvid doctor`: what a run will need, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cogvid.config.schema import TrainerConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Devices; trainer.devices x trainer.num_nodes by default.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="h100, h200, a100, 4090, or cpu: this machine's.")
    ] = None,
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the device's peak that training is assumed to reach.")
    ] = 0.4,
    runs: Annotated[Path, typer.Option(help="Folder of all runs, whose disk is looked at.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON: bytes, FLOPs, seconds.")] = False,
) -> None:
    """Say what a run will need: parameters, FLOPs, memory a device, time, files, disk. Nothing runs."""
    from rich.console import Console

    from cogvid.config.compose import load_experiment
    from cogvid.inspect.doctor import examine
    from cogvid.inspect.doctor_hardware import hardware
    from cogvid.inspect.doctor_table import as_data, notes, tables
    from cogvid.pipeline.lab import Lab
    from cogvid.pipeline.run import Run  # a training's process has imported all of it  # noqa: F401

    resolved = load_experiment(experiment, variant, overrides or [])
    trainer = resolved.config.trainer
    if gpus is not None:
        # Behind the checks: a batch that does not divide is a finding here, and no error.
        trainer.devices, trainer.num_nodes = gpus, 1
    lab = Lab(resolved.config, resolved.provenance)
    with Console(stderr=True).status("doctor"):
        needs = examine(lab, hardware(gpu or _default_gpu(trainer, gpus), trainer), mfu, runs)
    if as_json:
        typer.echo(json.dumps(as_data(needs), indent=2))
        return
    console = Console()
    for table in tables(needs):
        console.print(table)
    console.print("\n".join(notes(needs)), markup=False, highlight=False, style="dim")
    for finding in needs.findings:
        console.print(finding, markup=False, highlight=False, style="bold red", soft_wrap=True)
    if not needs.findings:
        console.print("Nothing stands in the way.", style="green")


def _default_gpu(trainer: TrainerConfig, gpus: int | None) -> str:
    """This machine's processors where the configuration trains there."""
    import torch

    if gpus is None and (
        trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not torch.cuda.is_available())
    ):
        return "cpu"
    return "h100"
