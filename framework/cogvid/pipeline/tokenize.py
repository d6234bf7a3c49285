"""Tokens of an experiment's clips without the rest of its run: as a whole, in parts, or merged of parts."""

from __future__ import annotations

from pathlib import Path

import torch

from cogvid.config.compose import Resolved
from cogvid.pipeline.check import check_folder, check_tokenizer
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import STAGES
from cogvid.pipeline.stage import StageStore
from cogvid.pipeline.tokenizer_stage import tokenizer_stage
from cogvid.pipeline.tokens_stage import TokensStage


def tokens_of(resolved: Resolved, runs: Path, wait: bool = True) -> TokensStage:
    """Finish the stages before the tokens: the clip table and the frame tokenizer.

    Args:
        resolved: the experiment, resolved.
        runs: folder of all runs.
        wait: for other processes that are at work on a wanted stage.

    Raises:
        UserError: the experiment cannot be tokenised, or not here.
    """
    store = StageStore(runs / STAGES, wait)
    check_folder(store.root)
    lab = Lab(resolved.config, resolved.provenance)
    with torch.random.fork_rng(devices=[]):
        check_tokenizer(lab)
    data = data_stage(lab, store)
    return TokensStage(lab, store, data, tokenizer_stage(lab, store, data))
