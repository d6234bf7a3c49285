"""Work on many items in processes of its own, in order, a little ahead of who uses the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from cogvid.errors import UserError

Item = TypeVar("Item")
# Starting processes takes as long as the work on so many items, about.
_WORTH_IT = 16


def processors() -> int:
    """How many processes can run at once here."""
    return len(os.sched_getaffinity(0))


def in_order(work: Callable[[int], Item], numbers: Sequence[int], workers: int | None = None) -> Iterator[Item]:
    """`work(number)` for each number, in order.

    The work runs ahead of what uses its results by two items for each process; no more of them wait in memory.

    Args:
        work: on one item; its result goes from process to process, tensors without a copy.
        numbers: of the items.
        workers: processes; 0 for this one, None for as many as can run at once where that is worth their start.

    Raises:
        UserError: as `work` does.
    """
    if workers is None:
        workers = processors() if len(numbers) >= _WORTH_IT else 0
    ahead = 2 if workers else None
    for item in DataLoader(_Work(work, numbers), batch_size=None, num_workers=workers, prefetch_factor=ahead):
        if isinstance(item, UserError):
            raise item
        yield item


class _Work(Dataset[Any]):
    def __init__(self, work: Callable[[int], Any], numbers: Sequence[int]) -> None:
        self.work, self.numbers = work, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Any:
        try:
            return self.work(self.numbers[place])
        except UserError as error:  # raised where the results are wanted: a loader would wrap it in a traceback
            return error
