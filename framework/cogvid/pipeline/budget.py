"""How long stages train: for the steps that `stages` says, or for what `budget` does."""

from __future__ import annotations

import math
from dataclasses import replace

from cogvid.config.schema import BudgetUnit, StageConfig
from cogvid.pipeline.lab import Lab


def stage_settings(lab: Lab, name: str) -> StageConfig:
    """Of a stage's training: its steps are those of a budget of tokens, if it has one, and 0 if it has one of seconds.

    The tokens of a step are those of all frames of its sequences, given ones counted; the last step may exceed them.
    """
    settings: StageConfig = getattr(lab.config.stages, name)
    amount = getattr(lab.config.budget, name, 0)
    if not amount:
        return settings
    if lab.config.budget.unit is BudgetUnit.seconds:
        return replace(settings, steps=0)
    frames = 1 if name == "image_base" else lab.grid.frames
    return replace(settings, steps=math.ceil(amount / (settings.batch_size * frames * lab.grid.frame_tokens)))


def stage_seconds(lab: Lab, name: str) -> int:
    """The budget of a stage that trains for so many seconds; 0 for one that trains for steps."""
    budget = lab.config.budget
    return getattr(budget, name, 0) if budget.unit is BudgetUnit.seconds else 0
