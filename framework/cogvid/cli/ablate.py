"""`cogvid ablate`: every variant of an experiment with every seed, as processes side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.cli.run import Overrides, Runs, Wait, load_run
from cogvid.errors import Interrupted, UserError

if TYPE_CHECKING:
    from cogvid.ablation.jobs import Job
    from cogvid.ablation.state import State
    from cogvid.config.schema import TrainerConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ablate)


def ablate(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with variants, or a YAML file.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once; they share the machine's cores and GPUs.")] = 1,
    wait: Wait = True,
) -> None:
    """Run every variant with every seed; one that fails stops no other, and what is finished is not run again."""
    from cogvid.ablation.follow import follow
    from cogvid.ablation.jobs import Job, in_order
    from cogvid.ablation.local import Local
    from cogvid.ablation.table import Shown, say
    from cogvid.config.compose import expand_sweeps, load_experiment
    from cogvid.pipeline.launch import check_one_machine
    from cogvid.pipeline.listing import write_listing
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import Run

    changes = overrides or []
    if len(expand_sweeps(changes)) > 1:
        raise UserError("command line: an ablation has one value for each key: make those to compare its variants.")
    if jobs > 1 and not wait:
        raise UserError("--no-wait: runs side by side wait for the stages that they share. Leave it out, or --jobs.")
    whole = load_experiment(experiment, None, changes)
    if not whole.variants:
        raise UserError(f"{whole.path} has no variants to compare: add `variants:`, or use `cogvid run`.")
    log_to_terminal()
    seeds = whole.config.seeds
    todo: list[Job] = []
    trainers: list[TrainerConfig] = []
    for variant, seed in in_order(whole.variants, seeds, jobs):
        resolved = load_run(experiment, variant, [*changes, f"seed={seed}"])
        trainers.append(resolved.config.trainer)
        check_one_machine(trainers[-1], resolved.provenance)
        # A mistake in the last of several should show before the first begins.
        run = Run(resolved, runs, wait)
        todo.append(Job(experiment, tuple(changes), variant, seed, runs, run.folder, wait))
    _check_folders(todo)
    for folder in {job.folder.parent.parent for job in todo}:
        write_listing(folder, whole.variants, seeds)
    console = Console()
    launcher = Local(_shares(min(jobs, len(todo)), trainers))
    order = [(variant, seed) for variant in whole.variants for seed in seeds]
    rows = sorted(todo, key=lambda job: order.index((job.variant, job.seed)))
    try:
        with Shown(console, rows) as shown:
            states = follow(todo, launcher, shown)
    except Interrupted as interruption:
        interruption.add_note("Run the command again to go on with what is not finished.")
        raise
    _tell(console, rows, states)
    say(console, f"Compare them: cogvid compare {runs / whole.config.name}")
    if any(state.phase == "failed" for state in states.values()):
        raise typer.Exit(1)


def _check_folders(jobs: Sequence[Job]) -> None:
    """Refuse jobs of which one would go on with what another has made.

    Raises:
        UserError: two have one folder.
    """
    folders = [job.folder for job in jobs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(f"{folder} would be that of several runs: leave out variant=... and seeds named twice.")


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


def _tell(console: Console, rows: Sequence[Job], states: Mapping[Job, State]) -> None:
    """How the runs ended."""
    from cogvid.ablation.local import OUTPUT
    from cogvid.ablation.table import say

    failed = [job for job in rows if states[job].phase == "failed"]
    say(console, f"{len(rows) - len(failed)} of {len(rows)} runs are finished.")
    for job in failed:
        say(console, f"  {job.title} failed: {states[job].note}. All it said: {job.folder / OUTPUT}")
    if failed:
        say(console, "Run the command again to try what failed once more; what is finished is not run again.")
