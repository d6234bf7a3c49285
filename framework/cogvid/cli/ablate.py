"""`cogvid ablate`: every variant of an experiment with every seed, as processes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.cli.launchers import (
    AtOnce,
    LauncherName,
    LauncherOptions,
    StartedBy,
    check_launcher,
    make_launcher,
)
from cogvid.cli.run import Overrides, Runs, Wait, load_run
from cogvid.errors import Interrupted, UserError

if TYPE_CHECKING:
    from cogvid.ablation.jobs import Job, Work
    from cogvid.ablation.state import State
    from cogvid.config.schema import TrainerConfig


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ablate)


def ablate(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with variants, or a YAML file.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    jobs: AtOnce = None,
    launcher: StartedBy = LauncherName.local,
    launcher_options: LauncherOptions = None,
    wait: Wait = True,
) -> None:
    """Run every variant with every seed; one that fails stops no other, and what is finished is not run again."""
    from cogvid.ablation.follow import follow
    from cogvid.ablation.jobs import Job, in_order
    from cogvid.ablation.table import Shown, say
    from cogvid.config.compose import expand_sweeps, load_experiment
    from cogvid.pipeline.launch import check_one_machine
    from cogvid.pipeline.listing import write_listing
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import Run

    changes = overrides or []
    if len(expand_sweeps(changes)) > 1:
        raise UserError("command line: an ablation has one value for each key: make those to compare its variants.")
    check_launcher(launcher, launcher_options, jobs, wait)
    whole = load_experiment(experiment, None, changes)
    if not whole.variants:
        raise UserError(f"{whole.path} has no variants to compare: add `variants:`, or use `cogvid run`.")
    log_to_terminal()
    seeds = whole.config.seeds
    todo: list[Job] = []
    trainers: list[TrainerConfig] = []
    at_once = jobs or 1 if launcher is LauncherName.local else len(whole.variants) * len(seeds)
    for variant, seed in in_order(whole.variants, seeds, at_once):
        resolved = load_run(experiment, variant, [*changes, f"seed={seed}"])
        trainers.append(resolved.config.trainer)
        check_one_machine(trainers[-1], resolved.provenance)
        # A mistake in the last of several should show before the first begins.
        run = Run(resolved, runs, wait)
        todo.append(Job(experiment, tuple(changes), variant, seed, runs, run.folder, wait))
    _check_folders(todo)
    starts = make_launcher(launcher, launcher_options, min(at_once, len(todo)), trainers, runs)
    for folder in {job.folder.parent.parent for job in todo}:
        write_listing(folder, whole.variants, seeds)
    console = Console()
    order = [(variant, seed) for variant in whole.variants for seed in seeds]
    rows = sorted(todo, key=lambda job: order.index((job.variant, job.seed)))
    try:
        with Shown(console, rows) as shown:
            states = follow(todo, starts, shown)
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


def _tell(console: Console, rows: Sequence[Job], states: Mapping[Work, State]) -> None:
    """How the runs ended."""
    from cogvid.ablation.process import OUTPUT
    from cogvid.ablation.table import say

    failed = [job for job in rows if states[job].phase == "failed"]
    say(console, f"{len(rows) - len(failed)} of {len(rows)} runs are finished.")
    for job in failed:
        say(console, f"  {job.title} failed: {states[job].note}. All it said: {job.folder / OUTPUT}")
    if failed:
        say(console, "Run the command again to try what failed once more; what is finished is not run again.")
