"""What commands that start jobs are told about launchers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.ablation.launcher import Launcher
    from cogvid.config.schema import TrainerConfig

_OPTIONS = "--launcher-options"


class LauncherName(StrEnum):
    """What starts jobs."""

    local = "local"
    slurm = "slurm"
    ray = "ray"


StartedBy = Annotated[
    LauncherName, typer.Option("--launcher", help="Start them here, as jobs of SLURM, or as tasks of a Ray cluster.")
]
LauncherOptions = Annotated[
    str | None,
    typer.Option(
        _OPTIONS, metavar="KEY=VALUE,...", help="What of the cluster each of them gets, such as partition=gpu,hours=8."
    ),
]
AtOnce = Annotated[
    int | None, typer.Option(min=1, help="How many run at once here; they share this machine's cores and GPUs.")
]


def make_launcher(
    name: LauncherName, words: str | None, at_once: int | None, trainers: Sequence[TrainerConfig], runs: Path
) -> Launcher:
    """What starts some jobs.

    Args:
        name: of it.
        words: its options, as the command line has them.
        at_once: how many jobs, on this machine.
        trainers: of the jobs.
        runs: folder of all runs.

    Raises:
        UserError: it has no such option, cannot have that value, or is not to be had here.
    """
    options = _options(name, words)
    if name is LauncherName.local:
        from cogvid.ablation.local import Local

        return Local(_shares(at_once or 1, trainers))
    from cogvid.ablation.jobs import threads_wanted
    from cogvid.ablation.needs import Needs

    threads = max(trainer.threads for trainer in trainers) or threads_wanted(os.environ) or 1
    processes = max(trainer.devices for trainer in trainers)
    gpus = any(trainer.accelerator in ("gpu", "cuda") for trainer in trainers)
    needs = Needs(processes, threads, processes if gpus else 0)
    if name is LauncherName.slurm:
        from cogvid.ablation.slurm import Slurm

        return Slurm(options, needs, runs)
    from cogvid.ablation.ray import Ray

    return Ray(options, needs)


def check_launcher(name: LauncherName, words: str | None, jobs: int | None, wait: bool, at_once: int = 1) -> None:
    """Refuse what does not go together, before anything else is looked at.

    Args:
        name: of a launcher.
        words: its options, as the command line has them.
        jobs: `--jobs`.
        wait: for other processes.
        at_once: how many jobs there are at once without `--jobs`.

    Raises:
        UserError: the launcher has no such option, or an option of the command is not for this launcher.
    """
    _options(name, words)
    here = name is LauncherName.local
    if jobs and not here:
        raise UserError(f"--jobs is for this machine: with --launcher {name} the cluster says how many run at once.")
    if not wait and (not here or (jobs or at_once) > 1):
        raise UserError("--no-wait: jobs side by side wait for the stages that they share. Leave it out, or --jobs.")


def _options(name: LauncherName, words: str | None) -> Any:
    from cogvid.config.options import checked_options
    from cogvid.config.overrides import at_commas, override_layer

    given: dict[str, Any] = {}
    for word in at_commas(words) if words else ():
        if "=" not in word:
            raise UserError(f"{_OPTIONS}: {word!r} is not key=value; write for example partition=gpu,hours=8.")
        given |= override_layer(word).tree
    sources = {f"options.{key}": _OPTIONS for key in given}
    return checked_options(_kind(name), given, f"launcher {name}", sources=sources)


def _kind(name: LauncherName) -> type:
    """Of a launcher's options."""
    from cogvid.ablation.local import LocalOptions
    from cogvid.ablation.ray import RayOptions
    from cogvid.ablation.slurm import SlurmOptions

    return {LauncherName.local: LocalOptions, LauncherName.slurm: SlurmOptions, LauncherName.ray: RayOptions}[name]


def _shares(at_once: int, trainers: Sequence[TrainerConfig]) -> list[dict[str, str]]:
    """Of this machine, for each of the jobs that run at once."""
    import torch

    from cogvid.ablation.jobs import shares, threads_wanted
    from cogvid.data.workers import processors

    wanted = any(trainer.accelerator in ("auto", "gpu", "cuda") for trainer in trainers)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    gpus = gpus if wanted and torch.cuda.device_count() else []
    processes = max(trainer.devices for trainer in trainers)
    return shares(at_once, processes, processors(), gpus, threads_wanted(os.environ))
