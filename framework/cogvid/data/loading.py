"""The batches of a training: which samples each step takes, drawn and put together in worker processes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from torch.utils.data import Dataset, default_collate

from cogvid.data.workers import in_order


def step_numbers(batch_size: int, step: int = 0, rank: int = 0, processes: int = 1, parts: int = 1) -> Iterator[range]:
    """The numbers of the samples of each step's parts, without end; they count on from step to step.

    Args:
        batch_size: samples of a step, over all processes and parts; a multiple of both together.
        step: to begin with.
        rank: of this process, which takes every `processes`-th sample of a step.
        processes: that train together.
        parts: of a step, one after the other.
    """
    for first in count(step * batch_size, batch_size):
        for part in range(parts):
            yield range(first + rank + part * processes, first + batch_size, processes * parts)


def load(samples: Dataset[Any], batches: Iterable[Sequence[int]], workers: int) -> Generator[Any, None, None]:
    """Batches of samples, in order.

    A sample is a function of its number, so it does not matter which process draws it, and a batch has nothing to do
    with those before it: any training can go on from any step with any number of workers.

    Args:
        samples: map-style; a sample is tensors.
        batches: the numbers of each one's samples.
        workers: processes that draw samples, two batches ahead each; 0 for this one.

    Returns:
        tensors as a sample has, the samples on a new first axis.

    Raises:
        UserError: as a sample does, or a worker was killed.
    """

    def batch(numbers: Sequence[int]) -> Any:
        return default_collate([samples[number] for number in numbers])

    return in_order(batch, batches, workers)
