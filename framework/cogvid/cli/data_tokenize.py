"""`cogvid data tokenize`: the tokens of an experiment's clips, alone or as one of several processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.cli.launchers import AtOnce, LauncherName, LauncherOptions, StartedBy, check_launcher, make_launcher
from cogvid.cli.run import Runs, Wait
from cogvid.errors import Interrupted, UserError

if TYPE_CHECKING:
    from cogvid.ablation.launcher import Launcher
    from cogvid.ablation.parts import TokenPart
    from cogvid.config.compose import Resolved
    from cogvid.pipeline.stage import StageResult
    from cogvid.pipeline.token_shards import Part

_PARTS = "K/N, such as 3/16: which of how many parts, counted from 1"


def register(data: typer.Typer) -> None:
    """Add the command."""
    data.command()(tokenize)


def tokenize(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value changes.")] = None,
    variant: Annotated[str | None, typer.Option(help="One of the experiment's variants.")] = None,
    runs: Runs = Path("runs"),
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="Make part K of N, beside other processes that make the others.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Join the parts when all of them are made.")] = False,
    others: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="RUNS", help="With --merge: take parts from here, too; may be repeated."),
    ] = None,
    parts: Annotated[
        int | None, typer.Option(min=1, help="Start so many processes, a part each, and join the parts.")
    ] = None,
    jobs: AtOnce = None,
    launcher: StartedBy = LauncherName.local,
    launcher_options: LauncherOptions = None,
    wait: Wait = True,
) -> None:
    """Tokenise the training clips of an experiment, as its run would; again after an interruption, it goes on."""
    from cogvid.config.compose import load_experiment
    from cogvid.pipeline.lab import log
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import STAGES
    from cogvid.pipeline.tokenize import make_part, tokens_of

    if part and merge:
        raise UserError("--part makes one part, --merge joins all: give one of the two.")
    if others and not merge:
        raise UserError("--from names folders that --merge takes parts from: give --merge, too.")
    if parts and (part or merge):
        raise UserError("--parts starts processes that make all parts, and joins these: give no --part or --merge.")
    if not parts and (jobs or launcher_options or launcher is not LauncherName.local):
        raise UserError("--jobs and --launcher are for processes that make parts: give --parts, too.")
    chosen = _parsed(part) if part else None
    if parts:
        check_launcher(launcher, launcher_options, jobs, wait, parts)
    log_to_terminal()
    log.setLevel("INFO")
    resolved = load_experiment(experiment, variant, overrides or [])
    if chosen:
        folder = make_part(resolved, runs, chosen, wait)
        _print(f"Made part {chosen} in {folder}")
        _print("When all parts are there, join them by the same command with --merge in place of --part.")
        return
    if parts:
        at_once = min(jobs or parts, parts)
        todo = _parts(resolved, experiment, overrides or [], variant, runs, parts)
        trainer = replace(resolved.config.trainer, devices=1)
        _finish_parts(todo, make_launcher(launcher, launcher_options, at_once, [trainer], runs))
    tokens = tokens_of(resolved, runs, wait)
    taken = [folder / STAGES for folder in others or []]
    _report(tokens.merge(taken) if merge or parts else tokens.finish(), tokens.lab.codes)


def _parts(
    resolved: Resolved, experiment: str, changes: list[str], variant: str | None, runs: Path, parts: int
) -> list[TokenPart]:
    """The jobs that make the parts."""
    from cogvid.ablation.parts import TokenPart
    from cogvid.pipeline.token_shards import Part
    from cogvid.pipeline.tokenize import check_tokens, part_folder

    check_tokens(resolved, runs)
    found = [Part(number, parts) for number in range(1, parts + 1)]
    return [
        TokenPart(experiment, tuple(changes), variant, str(part), runs, part_folder(resolved, runs, part))
        for part in found
    ]


def _finish_parts(todo: list[TokenPart], launcher: Launcher) -> None:
    """Have all parts made.

    Raises:
        UserError: some are not; the message says why.
    """
    from cogvid.ablation.follow import follow
    from cogvid.ablation.process import OUTPUT
    from cogvid.ablation.table import Shown

    try:
        with Shown(Console(), todo) as shown:
            states = follow(todo, launcher, shown)
    except Interrupted as interruption:
        interruption.add_note("Run the command again to go on with what is not finished.")
        raise
    failed = [job for job in todo if states[job].phase == "failed"]
    if failed:
        why = "; ".join(f"{job.title}: {states[job].note} (all it said: {job.folder / OUTPUT})" for job in failed)
        raise UserError(
            f"{len(failed)} of {len(todo)} parts failed. {why}. Run the command again: what is made is not made again."
        )


def _parsed(text: str) -> Part:
    from cogvid.pipeline.token_shards import Part

    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return Part(int(number), int(of))
    raise UserError(f"--part {text}: write {_PARTS}.")


def _report(stage: StageResult, codes: int) -> None:
    info = stage.info
    _print(f"Tokens: {stage.folder}")
    _print(
        f"  {info['clips']} clips, {info['frames']} frames, in {info['shards']} shards; reconstruction "
        f"{info['psnr']} dB, {info['codes_used']} of {codes} codes used"
    )


def _print(line: str) -> None:
    Console().print(line, markup=False, highlight=False, soft_wrap=True)
