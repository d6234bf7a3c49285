"""What seeds allow to say: Student's t over them, pairs by seed, and Holm's correction over a whole table.

Seeds are few, so nothing here assumes more than a normal distribution of differences, and nothing is estimated from a
single seed. Holm (1979), "A simple sequentially rejective multiple test procedure", holds for tests that depend on each
other, as those against one baseline do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# The functions behind `scipy.stats.t`, which takes half a second to import.
from scipy.special import stdtr, stdtrit

LEVEL = 0.05
# Relative to the values: what is closer together is one value, rounded in two ways.
_SAME = 1e-9


@dataclass(frozen=True)
class Estimate:
    """Of a mean, by Student's t.

    Attributes:
        mean: of the values.
        interval: of 95%; None where the values show no spread.
        p: two-sided, that the mean is 0; None in the same case.
        count: of values.
    """

    mean: float
    interval: tuple[float, float] | None
    p: float | None
    count: int


def estimate(values: Sequence[float], scale: float = 0.0) -> Estimate:
    """The mean of independent values, with what their spread says of it.

    A single value shows no spread, and neither do equal ones: two runs that agree to the last digit did not draw
    anything that mattered, so they are no evidence of how much other runs would differ.

    Args:
        values: at least one.
        scale: the size of what the values are differences of, below whose rounding errors there is no spread.
    """
    mean, count = statistics.fmean(values), len(values)
    size = max(scale, *(abs(value) for value in values))
    if count < 2 or max(values) - min(values) <= _SAME * size:
        return Estimate(mean, None, None, count)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(stdtrit(count - 1, 1 - LEVEL / 2)) * error
    p = 2 * float(stdtr(count - 1, -abs(mean) / error))
    return Estimate(mean, (mean - half, mean + half), p, count)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """The mean difference of two variants seed by seed; None without a seed that both have.

    Seeds share prompts, sampling seeds and reference, so what is a seed's own doing is in both and falls out.

    Args:
        values: by seed.
        baseline: the same of what they are compared with.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    scale = max(abs(found[seed]) for found in (values, baseline) for seed in seeds)
    return estimate([values[seed] - baseline[seed] for seed in seeds], scale)


def holm(ps: Sequence[float]) -> list[float]:
    """Corrected p values, in the same order: whoever calls those below 0.05 different is wrong about any of them with
    a probability of at most 0.05."""
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected
