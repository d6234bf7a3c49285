"""What a search tries next, as a function of its seed and of the trials so far, and of nothing else."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from cogvid.config.space import Choices, Dimension
from cogvid.search.trial import as_said

# Significant digits of a drawn number: the rest would make commands long, and no run better.
_DIGITS = 6


def distributions(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """A search space in the words of Optuna; a choice is called what the command line calls it."""
    return {each.key: _distribution(each) for each in space}


def _distribution(each: Dimension) -> BaseDistribution:
    if isinstance(each, Choices):
        return CategoricalDistribution([as_said(value) for value in each.values])
    if each.whole:
        return IntDistribution(int(each.low), int(each.high), log=each.log, step=int(each.step or 1))
    return FloatDistribution(each.low, each.high, log=each.log, step=each.step)


def suggest(
    trials: Sequence[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    *,
    direction: StudyDirection,
    seed: int,
    startup: int,
    sampler: str,
) -> dict[str, Any]:
    """The values of the next trial.

    Every suggestion has a sampler of its own, whose seed is that of the search and the number of the trial: what was
    drawn before an interruption is not missed behind it.

    Args:
        trials: all so far; those that still run count as bad, so that others keep away from them.
        space: by key.
        direction: of the target.
        seed: of the search.
        startup: so many finished or pruned trials are needed to learn from.
        sampler: `tpe` (tree-structured Parzen estimator; Bergstra et al. 2011) or `random`.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed} {len(trials)}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        drawing: BaseSampler = RandomSampler(seed=own)
        if sampler == "tpe":
            drawing = TPESampler(seed=own, n_startup_trials=startup, constant_liar=True)
    # A study of its own, since asking writes values down one by one, and a kill could come between.
    asked = optuna.create_study(direction=direction, sampler=drawing)
    asked.add_trials(trials)
    values = asked.ask(dict(space)).params
    return {key: _rounded(value, space[key]) for key, value in values.items()}


def _rounded(value: Any, among: BaseDistribution) -> Any:
    if not isinstance(among, FloatDistribution) or among.step is not None:
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), among.low), among.high)
