"""Tokens of an experiment's clips without the rest of its run: as a whole, in parts, or merged of parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from cogvid.config.compose import Resolved
from cogvid.pipeline.check import check_folder, check_tokenizer
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.logs import log_to_file
from cogvid.pipeline.run import STAGES
from cogvid.pipeline.run_state import RunState, write_run_state
from cogvid.pipeline.stage import StageStore, owned
from cogvid.pipeline.token_shards import Part
from cogvid.pipeline.tokenizer_stage import tokenizer_stage
from cogvid.pipeline.tokens_stage import TokensStage

_PARTS = "parts"


def check_tokens(resolved: Resolved, runs: Path) -> Lab:
    """Refuse what cannot be tokenised before anything is done.

    Args:
        resolved: the experiment, resolved.
        runs: folder of all runs.

    Returns:
        The experiment's parts.

    Raises:
        UserError: the experiment cannot be tokenised, or not here.
    """
    check_folder(runs / STAGES)
    lab = Lab(resolved.config, resolved.provenance)
    with torch.random.fork_rng(devices=[]):
        check_tokenizer(lab)
    return lab


def tokens_of(
    resolved: Resolved, runs: Path, wait: bool = True, begins: Callable[[str, Path], None] | None = None
) -> TokensStage:
    """Finish the stages before the tokens: the clip table and the frame tokenizer.

    Args:
        resolved: the experiment, resolved.
        runs: folder of all runs.
        wait: for other processes that are at work on a wanted stage.
        begins: told the name and the folder of a stage that is not finished, before it is waited for or made.

    Raises:
        UserError: the experiment cannot be tokenised, or not here.
    """
    lab, store = check_tokens(resolved, runs), StageStore(runs / STAGES, wait, begins)
    data = data_stage(lab, store)
    return TokensStage(lab, store, data, tokenizer_stage(lab, store, data))


def part_folder(resolved: Resolved, runs: Path, part: Part) -> Path:
    """Where a process that makes a part of the tokens says what it is at; of its work nothing lies there."""
    config = resolved.config
    return runs / _PARTS / config.name / config.variant / str(config.seed) / part.name


def make_part(resolved: Resolved, runs: Path, part: Part, wait: bool = True) -> Path:
    """Make a part of the tokens, beside other processes that make others.

    Args:
        resolved: the experiment, resolved.
        runs: folder of all runs.
        part: to make.
        wait: for other processes that are at work on a wanted stage, or on this part.

    Returns:
        The folder of the tokens.

    Raises:
        UserError: the experiment cannot be tokenised, or not here.
    """
    check_tokens(resolved, runs)
    folder = part_folder(resolved, runs, part)

    def begins(stage: str, at: Path) -> None:
        steps = getattr(getattr(resolved.config.stages, stage, None), "steps", 0)
        write_run_state(folder, RunState(stage, str(at.absolute()), steps))

    with owned(folder, wait), log_to_file(folder / "log.txt"):
        write_run_state(folder, RunState())
        tokens = tokens_of(resolved, runs, wait, begins)
        # Who makes other parts is at work in the stage's folder, too: what this process is at is in its own.
        write_run_state(folder, RunState(f"{tokens.name}, part {part}", str(folder.absolute())))
        return tokens.part(part)
