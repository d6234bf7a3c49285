"""`cogvid search`: runs of an experiment whose options Optuna chooses within the space that its file says."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.cli.launchers import LauncherName, LauncherOptions, StartedBy, check_launcher, make_launcher
from cogvid.cli.run import Overrides, Runs, Wait
from cogvid.errors import Interrupted, UserError

if TYPE_CHECKING:
    from cogvid.config.compose import Resolved
    from cogvid.config.schema import SearchConfig
    from cogvid.search.study import Study
    from cogvid.search.trial import Trial, TrialJob

_RUNS = Path("runs")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with `search:`, or a YAML file.")],
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants, to start from.")] = None,
    runs: Runs = _RUNS,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at once; here they share the cores and GPUs.")] = 1,
    launcher: StartedBy = LauncherName.local,
    launcher_options: LauncherOptions = None,
    wait: Wait = True,
) -> None:
    """Look for the best values of options; the same command goes on after an interruption, and with more trials."""
    if find_spec("optuna") is None:
        raise UserError("cogvid search needs Optuna, which is not installed: pip install 'cogvid[search]'.")
    from cogvid.config.compose import DEFAULT_VARIANT, expand_sweeps, load_experiment
    from cogvid.config.space import dimensions
    from cogvid.pipeline.budget import stage_settings
    from cogvid.pipeline.check import check_folder, check_lab
    from cogvid.pipeline.launch import check_one_machine
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.stage import owned
    from cogvid.search.check import check_pruning, check_space, open_folder
    from cogvid.search.follow import Goal, Search
    from cogvid.search.study import Study
    from cogvid.search.table import Shown
    from cogvid.search.target import target_of
    from cogvid.search.trial import TrialJob, trial_variant

    changes = overrides or []
    if len(expand_sweeps(changes)) > 1:
        raise UserError("command line: a search has one value for each key: say in search.space which it may take.")
    check_launcher(launcher, launcher_options, None, wait, jobs)
    resolved = load_experiment(experiment, variant, changes)
    wanted = _section(resolved)
    log_to_terminal()
    config, space = resolved.config, dimensions(wanted.space, resolved.provenance)
    check_one_machine(config.trainer, resolved.provenance)
    lab = check_space(resolved, variant, changes, space)
    target = target_of(wanted, lab)
    check_pruning(wanted, lab)
    own = "" if config.variant == DEFAULT_VARIANT else config.variant
    home = runs / config.name
    folder = home / (f"{own}-search" if own else "search")
    check_folder(folder)
    check_lab(lab)

    # What every run is told. How many trials there are changes, and is no matter of theirs.
    common = [change for change in changes if not change.startswith("search.trials=")]

    def job_of(trial: Trial) -> TrialJob:
        name = trial_variant(own, trial.number)
        values = (*common, *trial.changes, f"variant={name}")
        place = home / name / str(config.seed)
        return TrialJob(experiment, values, variant or DEFAULT_VARIANT, config.seed, runs, place, wait, trial.number)

    console = Console()
    starts = make_launcher(launcher, launcher_options, min(jobs, wanted.trials), [config.trainer], runs)
    steps = stage_settings(lab, wanted.prune).steps if wanted.prune else 0
    with owned(folder, wait):
        journal = open_folder(folder, config, f"{trial_variant(own, 0).removesuffix('000')}*")
        study = Study(journal, wanted, space, target.better, config.seed)
        known = [trial.number for trial in study.trials if trial.phase != "running"]
        try:
            with Shown(console, target.name, known) as shown:
                goal = Goal(target, wanted.whole_runs, wanted.prune, steps)
                Search(study, goal, starts, job_of, shown).run(wanted.trials, jobs)
        except Interrupted as interruption:
            interruption.add_note("Run the command again to go on with the search.")
            raise
        _tell(console, study, target.name, job_of)


def _section(resolved: Resolved) -> SearchConfig:
    """What the experiment says of a search."""
    from cogvid.config.sources import display

    if resolved.config.search is None:
        raise UserError(
            f"{display(resolved.path)} says nothing of a search: add `search:` with a target, such as "
            "held_out.sequential, and a space, such as {stages.sequential.muon_lr: {low: 1e-3, high: 3e-2, log: true}}."
        )
    return resolved.config.search


def _tell(console: Console, study: Study, target: str, job_of: Callable[[Trial], TrialJob]) -> None:
    """What the search has found."""
    from cogvid.ablation.table import say
    from cogvid.search.table import print_table

    trials, best = study.trials, study.best
    print_table(console, trials, target, best.number if best else None)
    counts = {phase: sum(trial.phase == phase for trial in trials) for phase in ("finished", "pruned", "failed")}
    say(console, f"{len(trials)} trials: " + ", ".join(f"{count} {phase}" for phase, count in counts.items()) + ".")
    for trial in trials:
        if trial.phase == "failed":
            say(console, f"  {trial.title} failed: {trial.note}. Its run: {job_of(trial).folder}")
    if best is None:
        say(console, "No trial is finished, so none is the best.")
        raise typer.Exit(1)
    say(console, f"The best is {best.title}, {target} {best.value:.6g}: {' '.join(best.changes)}")
    say(console, f"Train it: {_command(job_of(best))}")
    say(console, f"Compare all: cogvid compare {job_of(best).folder.parents[1]}")
    say(console, f"For more trials: the same command with search.trials={2 * len(trials)}")


def _command(job: TrialJob) -> str:
    """For a shell; what is so by default is left out."""
    from cogvid.config.compose import DEFAULT_VARIANT

    words = ["cogvid", "run", job.experiment, *job.changes, f"seed={job.seed}"]
    words += ["--variant", job.variant] if job.variant != DEFAULT_VARIANT else []
    words += ["--runs", str(job.runs)] if job.runs != _RUNS else []
    return shlex.join(words)
