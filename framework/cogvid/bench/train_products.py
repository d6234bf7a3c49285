"""The matrix products of a piece of work, as torch runs them: what they cost, and how fast they are by themselves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DENSE = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
_BATCHED = torch.ops.aten.bmm.default
# Shape, strides and type of both factors.
Factor = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
Factors = tuple[Factor, ...]


class Products(TorchDispatchMode):
    """Counts the products that are run inside its block; those of kernels that are none of torch's it cannot see.

    Attributes:
        dense: of two matrices, each with how often it is run.
        batched: of two batches of matrices, which attention over tiles is made of.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dense: Counter[Factors] = Counter()
        self.batched: Counter[Factors] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func in _DENSE or func is _BATCHED:
            found = self.batched if func is _BATCHED else self.dense
            found[tuple((tuple(x.shape), x.stride(), x.dtype) for x in args[-2:])] += 1
        return func(*args, **(kwargs or {}))


def flops(products: Counter[Factors]) -> int:
    """Of all of them."""
    return sum(times * 2 * math.prod(left[0]) * right[0][-1] for (left, right), times in products.items())


def alone(products: Counter[Factors], device: torch.device) -> Callable[[], None]:
    """A call that runs them all, on random numbers, and nothing else."""
    work: list[tuple[Tensor, Tensor, Tensor, int]] = []
    for factors, times in products.items():
        left, right = (_random(factor, device) for factor in factors)
        work.append((left, right, left @ right, times))

    def run() -> None:
        for left, right, out, times in work:
            for _ in range(times):
                torch.matmul(left, right, out=out)

    return run


def _random(factor: Factor, device: torch.device) -> Tensor:
    shape, strides, dtype = factor
    size = 1 + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    return torch.randn(size, device=device).to(dtype).as_strided(shape, strides)
