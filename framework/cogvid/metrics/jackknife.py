"""Standard error and bias of a statistic of two sample sets, the same in whatever order the samples came.

Shapes: n samples, G groups. Everything is float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The standard error is itself good to about 1 / sqrt(2 * groups).
GROUPS = 16


class Jackknife(NamedTuple):
    """What leaving samples out tells about a statistic."""

    error: float  # standard error
    debiased: float  # the statistic without its bias of first order in 1/n


class LeftOut(NamedTuple):
    """A statistic of two sample sets, and what it becomes without group g of one, of the other, of both.

    Attributes:
        whole: of all samples.
        real: (G,), group g left out of the real samples.
        generated: (G,), of the generated ones.
        both: (G,), of both at once.
    """

    whole: float
    real: Tensor
    generated: Tensor
    both: Tensor


def shuffled(rows: Tensor) -> Tensor:
    """The rows (n, ...) in an order that follows from their values alone and says nothing about them.

    Samples arrive in another order from other batches and other numbers of processes, and groups and splits may not
    depend on that. Rows are ranked by their projection on one fixed random direction; a fixed permutation of the ranks
    then breaks the tie between rank and value, which would make groups more alike than chance. A hash of the row would
    be simpler, but the last bit of a feature, which batching does change, would throw all groups over; ranks stay.
    """
    if len(rows) < 2:
        return rows
    flat = rows.flatten(1).double().cpu()
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(flat.shape[1], dtype=torch.float64, generator=generator)
    # Row by row: a matrix product may round a row in another way beside other rows.
    ranked = (flat * direction).sum(1).argsort(stable=True)
    return rows[ranked[torch.randperm(len(rows), generator=generator)].to(rows.device)]


def group_of(count: int, groups: int) -> Tensor:
    """The group (count,) of each sample: sample i is in group i mod G."""
    return torch.arange(count) % groups


def group_count(fewest: int) -> int:
    """How many groups the smaller of two sets of samples is cut into: at most half as many as samples."""
    return min(GROUPS, fewest // 2)


def jackknife(values: LeftOut) -> Jackknife:
    """The delete-a-group jackknife of a smooth statistic of two independent sample sets.

    Each set is left out of by itself; variances and biases add up. What a statistic has of second order in the samples
    the jackknife's variance counts twice (Efron and Stein, 1981), and a distance between equal distributions has
    nothing else: its error would come out too large by a factor of 1.4. So the part of second order between the sets,
    which leaving out of both at once shows, and which is half of the whole between equally large sets of one
    distribution, is taken off twice. No more than half of the variance can have been too much.
    """
    groups = len(values.real)
    naive = float(values.real.var(correction=0) + values.generated.var(correction=0)) * (groups - 1)
    interaction = values.both - values.real - values.generated + values.whole
    between = float(interaction.square().mean()) * (groups - 1) ** 2
    bias = (groups - 1) * float(values.real.mean() + values.generated.mean() - 2 * values.whole)
    return Jackknife(math.sqrt(max(naive - 2 * between, naive / 2)), values.whole - bias)
