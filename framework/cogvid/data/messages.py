"""Small results of work in processes, several in a message: passing one on costs as much as decoding a small clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from cogvid.data.workers import in_order
from cogvid.errors import UserError

# A message takes about a millisecond beside its bytes, so that small ones halve the speed of two processes.
_WORTH_SENDING = 4 << 20
_MOST = 32


def in_messages(
    work: Callable[[int], Tensor], numbers: Sequence[int], size: int, workers: int | None = None
) -> Iterator[Tensor]:
    """`work(number)` for each number, in order, as `in_order` gives it; it runs ahead by two messages for each process.

    Args:
        work: on one item; all its results have one dtype.
        numbers: of the items.
        size: bytes of a result, about.
        workers: processes; 0 for this one, None for as many as can run at once where that is worth their start.

    Raises:
        UserError: as `work` does.
    """
    together = 1 if workers == 0 else min(max(_WORTH_SENDING // max(size, 1), 1), _MOST)
    if len(numbers) < 2 * together:
        together = 1

    def message(place: int) -> _Message:
        results: list[Tensor] = []
        for number in numbers[place * together : (place + 1) * together]:
            try:
                results.append(work(number))
            except UserError as error:  # what came before it is wanted first
                return _Message.of(results, error)
        return _Message.of(results)

    with closing(in_order(message, range(-(-len(numbers) // together)), workers)) as messages:
        for sent in messages:
            yield from sent.results()
            if sent.error is not None:
                raise sent.error


@dataclass(frozen=True)
class _Message:
    """Results on their way, in one piece of memory: each piece that processes share has a file of its own."""

    flat: Tensor | None
    shapes: list[tuple[int, ...]]
    error: UserError | None

    @classmethod
    def of(cls, results: list[Tensor], error: UserError | None = None) -> _Message:
        flat = None
        if results:
            flat = results[0].flatten() if len(results) == 1 else torch.cat([each.flatten() for each in results])
        return cls(flat, [tuple(each.shape) for each in results], error)

    def results(self) -> Iterator[Tensor]:
        if self.flat is not None:
            parts = self.flat.split([prod(shape) for shape in self.shapes])
            yield from (part.view(shape) for part, shape in zip(parts, self.shapes, strict=True))
