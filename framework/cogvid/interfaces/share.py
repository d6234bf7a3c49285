"""Which samples of a step's batch are at hand: all of them, or a process's share, or a part of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
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

    def gather(self, values: Tensor) -> Tensor:
        """The values of all samples of the batch, in its order: `of`, the other way round.

        All processes call it, in the same order. Gradients go back to the process whose samples they belong to, summed
        over what all processes make of the whole.

        Args:
            values: one for each sample at hand, float (own, ...); the batch is not trained on in parts.

        Returns:
            (own * stride, ...), the same in every process.
        """
        if self.stride == 1:
            return values
        assert self.stride == dist.get_world_size(), "a part of a batch, whose others are not at hand yet"
        whole: Tensor = _Gather.apply(values, self)  # type: ignore[no-untyped-call]
        return whole


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, share: Share) -> Tensor:
        context.share = share
        each = [torch.empty_like(values) for _ in range(share.stride)]
        dist.all_gather(each, values.contiguous())
        return torch.stack(each, dim=1).flatten(0, 1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return context.share.of(total), None
