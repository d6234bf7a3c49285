"""`cogvid run` and `cogvid ablate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.config.compose import Resolved
    from cogvid.pipeline.run import Run
    from cogvid.pipeline.stage import StageResult

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value changes; key=1,2 runs each value.")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for other cogvid processes that are at the same work.")
]
console = Console()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(ablate)


def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    runs: Runs = Path("runs"),
    wait: Wait = True,
) -> None:
    """Train, generate and evaluate; run the same command again to go on after an interruption."""
    from cogvid.config.compose import expand_sweeps

    sweeps = expand_sweeps(overrides or [])
    todo = []
    for changes in sweeps:
        swept = [change for change in changes if any(change not in other for other in sweeps)]
        todo.append(_load(experiment, variant, changes, swept))
    _finish_all([("", each) for each in todo], runs, wait, None)


def ablate(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with variants, or a YAML file.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    wait: Wait = True,
) -> None:
    """Run every variant with every seed, one after the other; what is finished is not run again."""
    from cogvid.config.compose import load_experiment

    changes = overrides or []
    whole = load_experiment(experiment, None, changes)
    if not whole.variants:
        raise UserError(f"{whole.path} has no variants to compare: add `variants:`, or use `cogvid run`.")
    todo = [
        (f"{name}, seed {seed}", _load(experiment, name, [*changes, f"seed={seed}"]))
        for seed in whole.config.seeds
        for name in whole.variants
    ]
    seeds = whole.config.seeds
    _finish_all(todo, runs, wait, seeds, f"Compare them: cogvid compare {runs / whole.config.name}")


def _load(experiment: str, variant: str | None, changes: list[str], swept: list[str] | None = None) -> Resolved:
    """One variant with one seed; what is swept becomes part of the variant's name."""
    from cogvid.config.compose import load_experiment

    resolved = load_experiment(experiment, variant, changes)
    config = resolved.config
    config.seeds = [config.seed]
    for change in swept or []:
        config.variant += "+" + re.sub(r"[^\w.-]+", "-", change)
    return resolved


def _finish_all(
    todo: list[tuple[str, Resolved]], runs: Path, wait: bool, seeds: list[int] | None, in_the_end: str = ""
) -> None:
    """Finish runs with their titles one after the other, all of them by the processes of one job.

    Args:
        todo: the runs.
        runs: folder of all runs.
        wait: for other processes that are at the same work.
        seeds: that every variant is run with; None where these are not all of them.
        in_the_end: said then.
    """
    from cogvid.pipeline.launch import joined
    from cogvid.pipeline.listing import write_listing
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import Run
    from cogvid.training import job

    log_to_terminal()
    first = todo[0][1]
    for _, each in todo:
        for name in ("devices", "num_nodes", "accelerator"):
            one, other = getattr(first.config.trainer, name), getattr(each.config.trainer, name)
            if one != other:
                raise UserError(
                    f"trainer.{name}: one command has the same processes for all of its runs, and this is {one} in one "
                    f"and {other} in another. Use a command for each."
                )
    with joined(first.config.trainer, first.provenance):
        # A mistake in the last of several should show before the first begins.
        with job.said_once():
            checked = [(title, Run(each, runs, wait)) for title, each in todo]
        if job.leads():
            for each in (resolved for _, resolved in todo if resolved.variants):
                write_listing(runs / each.config.name, each.variants, seeds)
        for title, run in checked:
            if title and job.leads():
                console.rule(title)
            metrics = run.finish()
            if job.leads():
                _tell(run, metrics)
        if in_the_end and job.leads():
            console.print(in_the_end)


def _tell(current: Run, metrics: StageResult | None) -> None:
    console.print(f"Finished {current.folder}")
    if metrics is None:
        console.print(
            "The models are trained. The data has no videos, so nothing was generated to be compared with any."
        )
        return
    for key, entry in metrics.info["sets"]["generated"].items():
        console.print(f"  {key}: " + ", ".join(f"{n} {v:.3f}" for n, v in entry["values"].items() if v is not None))
    console.print(f"Videos: {current.folder / 'samples' / 'generated'}")
