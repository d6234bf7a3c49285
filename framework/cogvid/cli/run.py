"""`cogvid run`."""

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
    """Add the command."""
    app.command()(run)


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
        todo.append(load_run(experiment, variant, changes, swept))
    _finish_all(todo, runs, wait)


def load_run(experiment: str, variant: str | None, changes: list[str], swept: list[str] | None = None) -> Resolved:
    """One variant with one seed; what is swept becomes part of the variant's name."""
    from cogvid.config.compose import load_experiment

    resolved = load_experiment(experiment, variant, changes)
    config = resolved.config
    config.seeds, config.search = [config.seed], None
    for change in swept or []:
        config.variant += "+" + re.sub(r"[^\w.-]+", "-", change)
    return resolved


def _finish_all(todo: list[Resolved], runs: Path, wait: bool) -> None:
    """Finish runs one after the other, all of them by the processes of one job.

    Args:
        todo: the runs.
        runs: folder of all runs.
        wait: for other processes that are at the same work.
    """
    from cogvid.pipeline.launch import joined
    from cogvid.pipeline.listing import write_listing
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import Run
    from cogvid.training import job

    log_to_terminal()
    first = todo[0]
    for each in todo:
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
            checked = [Run(each, runs, wait) for each in todo]
        if job.leads():
            for each in todo:
                if each.variants:
                    write_listing(runs / each.config.name, each.variants)
        for run in checked:
            metrics = run.finish()
            if job.leads():
                _tell(run, metrics)


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
