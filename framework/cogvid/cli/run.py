"""`cogvid run`, `cogvid ablate` and `cogvid sample`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.config.compose import Resolved
    from cogvid.pipeline.stage import StageResult

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value changes; key=1,2 runs each value.")]
Runs = Annotated[Path, typer.Option(help="Folder of all runs.")]
console = Console()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(ablate)
    app.command()(sample)


def run(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Train, generate and evaluate; run the same command again to go on after an interruption."""
    from cogvid.config.compose import expand_sweeps

    sweeps = expand_sweeps(overrides or [])
    for changes in sweeps:
        swept = [change for change in changes if any(change not in other for other in sweeps)]
        _execute(_load(experiment, variant, changes, swept), runs)


def ablate(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with variants, or a YAML file.")],
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
) -> None:
    """Run every variant with every seed, one after the other; what is finished is not run again."""
    from cogvid.config.compose import load_experiment

    changes = overrides or []
    plan = load_experiment(experiment, None, changes)
    if not plan.variants:
        raise UserError(f"{plan.path} has no variants to compare: add `variants:`, or use `cogvid run`.")
    for name in plan.variants:
        load_experiment(experiment, name, changes)  # a mistake in the last variant should show before the first runs
    for seed in plan.config.seeds:
        for name in plan.variants:
            console.rule(f"{name}, seed {seed}")
            _execute(_load(experiment, name, [*changes, f"seed={seed}"]), runs)
    console.print(f"Compare them: cogvid compare {runs / plan.config.name}")


def sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    prompts: Annotated[list[str], typer.Argument(help="What to generate, one clip each.")],
    frames: Annotated[
        int | None, typer.Option(help="Frames of the finished clip; the run's own number if not given.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds from first to last frame.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other clips.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the mp4 files; they never replace others.")] = Path("samples"),
) -> None:
    """Write an mp4 for each prompt."""
    from cogvid.config.compose import load_experiment
    from cogvid.pipeline.sample import sample_clips
    from cogvid.pipeline.stage import StageResult

    saved = folder / "config.yaml"
    if not saved.exists():
        raise UserError(f"{folder} is not the folder of a run: it has no config.yaml. Runs are made by `cogvid run`.")
    overrides = [f"generation.frames={frames}"] if frames else []
    stages: dict[str, StageResult] = {}
    for path in sorted((folder / "stages").glob("*/stage.json")):
        info = json.loads(path.read_text())
        stages[path.parent.name] = StageResult(path.parent, info["key"], info)
    for path in sample_clips(load_experiment(str(saved), None, overrides).config, stages, prompts, duration, seed, out):
        console.print(str(path))


def _load(experiment: str, variant: str | None, changes: list[str], swept: list[str] | None = None) -> Resolved:
    """One variant with one seed; what is swept becomes part of the variant's name."""
    from cogvid.config.compose import load_experiment

    resolved = load_experiment(experiment, variant, changes)
    config = resolved.config
    config.seeds = [config.seed]
    for change in swept or []:
        config.variant += "+" + re.sub(r"[^\w.-]+", "-", change)
    return resolved


def _execute(resolved: Resolved, runs: Path) -> None:
    from cogvid.pipeline.run import Run, log_to_terminal

    log_to_terminal()
    current = Run(resolved, runs)
    metrics = current.finish()
    console.print(f"Finished {current.folder}")
    for key, values in metrics.info["sets"]["generated"].items():
        console.print(f"  {key}: " + ", ".join(f"{n} {v:.3f}" for n, v in values.items() if v is not None))
    console.print(f"Videos: {current.folder / 'samples' / 'generated'}")
