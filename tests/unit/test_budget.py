"""Stages that train for tokens or seconds in place of steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from cogvid.compare import compare, find_runs
from cogvid.config.compose import load_experiment
from cogvid.config.schema import StageConfig
from cogvid.errors import UserError
from cogvid.pipeline.budget import stage_seconds, stage_settings
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.listing import write_listing
from cogvid.training.length import Length
from cogvid.training.optimizer import build_optimizer


def lab(*changes: str) -> Lab:
    resolved = load_experiment("quickstart", None, list(changes))
    return Lab(resolved.config, resolved.provenance)


def test_tokens_become_steps_of_the_stage() -> None:
    # A sequence has 5 frames of 8 x 8 tokens, an image one of them.
    built = lab("budget.sequential=3201", "budget.image_base=3201", "stages.sequential.batch_size=2")
    assert stage_settings(built, "sequential").steps == 6
    assert stage_settings(built, "image_base").steps == 7
    assert stage_settings(built, "interpolation") is built.config.stages.interpolation
    assert not any(stage_seconds(built, name) for name in ("image_base", "sequential", "interpolation", "tokenizer"))


def test_seconds_take_the_place_of_steps() -> None:
    built = lab("budget.unit=seconds", "budget.sequential=30")
    assert stage_settings(built, "sequential").steps == 0
    assert stage_seconds(built, "sequential") == 30
    assert stage_settings(built, "image_base") is built.config.stages.image_base
    assert stage_seconds(built, "image_base") == 0


@pytest.mark.parametrize("change", ["budget.unit=hours", "budget.sequential=-1", "budget.tokenizer=5"])
def test_a_budget_that_is_none_is_refused(change: str) -> None:
    with pytest.raises(UserError, match="budget"):
        lab(change)


def test_learning_rates_follow_the_seconds_that_were_spent() -> None:
    length = Length(0, 100.0)
    config = StageConfig(steps=0, batch_size=1, adam_lr=1.0, warmup=0.1, cooldown=0.5)
    network = nn.Linear(2, 2)
    optimizer, schedule = build_optimizer(network.named_parameters(), config, length)
    rates = []
    for length.spent in (0.0, 4.5, 30.0, 75.0, 100.0, 101.0):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1 / 11, 0.5, 1, 0.5, 0, 0])


def test_a_comparison_says_what_is_equal_and_what_is_not(make_run: Callable[..., Path], tmp_path: Path) -> None:
    def noted(**other: Any) -> list[str]:
        same = {"stages.image_base.steps": 900, "stages.sequential.steps": 900, "budget.sequential": 2000}
        experiment = f"study{len(list(tmp_path.glob('study*')))}"
        make_run("one", experiment=experiment, overrides=same, shared="image_base-1")
        make_run("two", experiment=experiment, overrides=same | other, shared="image_base-1")
        write_listing(tmp_path / experiment, ["one", "two"], [0])
        return [note for note in compare(find_runs([tmp_path / experiment])).notes if "udget" in note]

    assert noted() == ["Budgets that are equal in all variants: image_base 900 steps, sequential 2,000 tokens."]
    assert noted(**{"budget.sequential": 0, "stages.image_base.steps": 5}) == [
        "Variants differ in the budget of image_base: one 900 steps, two 5 steps.",
        "Variants differ in the budget of sequential: one 2,000 tokens, two 900 steps.",
    ]
