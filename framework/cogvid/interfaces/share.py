"""Which samples of a step's batch are at hand: all of them, or a process's share, or a part of that."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Every `stride`-th sample of a batch, from `first` on.

    What is drawn at random for a batch is drawn for all of it and shared out like its samples: then neither the number
    of processes nor that of parts decides what a sample gets.
    """

    first: int = 0
    stride: int = 1

    def whole(self, own: int) -> int:
        """The samples of the whole batch, where `own` of them are at hand."""
        return own * self.stride

    def of(self, values: Tensor) -> Tensor:
        """The part of values, one for each sample of the batch, that belongs to the samples at hand."""
        return values[self.first :: self.stride]
