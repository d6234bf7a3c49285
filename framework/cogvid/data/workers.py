"""Work on many items in processes of its own, in order, a little ahead of who uses the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cogvid.errors import UserError

Item = TypeVar("Item")
# Starting processes takes as long as the work on so many items, about.
_WORTH_IT = 16


def processors() -> int:
    """How many processes can run at once here."""
    return len(os.sched_getaffinity(0))


def in_order(
    work: Callable[[int], Item], numbers: Sequence[int], workers: int | None = None, together: int = 1
) -> Iterator[Item]:
    """`work(number)` for each number, in order.

    The work runs ahead of what uses its results by two messages for each process; no more of them wait in memory.

    Args:
        work: on one item; its result goes from process to process, tensors in memory that both share.
        numbers: of the items.
        workers: processes; 0 for this one, None for as many as can run at once where that is worth their start.
        together: items in a message: passing one on takes about a millisecond, as long as decoding a small clip.

    Raises:
        UserError: as `work` does.
    """
    if workers is None:
        workers = processors() if len(numbers) >= _WORTH_IT else 0
    together, ahead = (together, 2) if workers else (1, None)
    messages = _Work(work, [numbers[start : start + together] for start in range(0, len(numbers), together)])
    for message in DataLoader(messages, batch_size=None, num_workers=workers, prefetch_factor=ahead):
        for item in message.results():
            if isinstance(item, UserError):
                raise item
            yield item


class _Work(Dataset[Any]):
    def __init__(self, work: Callable[[int], Any], groups: Sequence[Sequence[int]]) -> None:
        self.work, self.groups = work, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, place: int) -> _Message:
        results: list[Any] = []
        for number in self.groups[place]:
            try:
                results.append(self.work(number))
            except UserError as error:  # raised where the results are wanted: a loader would wrap it in a traceback
                results.append(error)
                break
        return _Message.of(results)


@dataclass(frozen=True)
class _Message:
    """Results of some items on their way: tensors of one dtype in one piece of memory, as each piece has a file."""

    items: list[Any]
    shapes: list[tuple[int, ...]]

    @classmethod
    def of(cls, results: list[Any]) -> _Message:
        tensors = len(results) > 1 and all(isinstance(each, Tensor) for each in results)
        if not tensors or len({each.dtype for each in results}) > 1:
            return cls(results, [])
        return cls([torch.cat([each.flatten() for each in results])], [tuple(each.shape) for each in results])

    def results(self) -> list[Any]:
        if not self.shapes:
            return self.items
        parts = self.items[0].split([prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
