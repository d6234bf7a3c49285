"""`cogvid data tokenize`: the tokens of an experiment's clips, alone or as one of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cogvid.cli.run import Runs, Wait
from cogvid.errors import UserError

if TYPE_CHECKING:
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
    wait: Wait = True,
) -> None:
    """Tokenise the training clips of an experiment, as its run would; again after an interruption, it goes on."""
    from cogvid.config.compose import load_experiment
    from cogvid.pipeline.lab import log
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.run import STAGES
    from cogvid.pipeline.tokenize import tokens_of

    if part and merge:
        raise UserError("--part makes one part, --merge joins all: give one of the two.")
    if others and not merge:
        raise UserError("--from names folders that --merge takes parts from: give --merge, too.")
    chosen = _parsed(part) if part else None
    log_to_terminal()
    log.setLevel("INFO")
    tokens = tokens_of(load_experiment(experiment, variant, overrides or []), runs, wait)
    if chosen:
        folder = tokens.part(chosen)
        _print(f"Made part {chosen} in {folder}")
        _print("When all parts are there, join them by the same command with --merge in place of --part.")
        return
    _report(tokens.merge([folder / STAGES for folder in others or []]) if merge else tokens.finish(), tokens.lab.codes)


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
