"""Whether a method computes what the mask says, before anybody looks at how fast.

A method is held to the computation in float64: it may have twice the error of the plain computation in the same
precision, and one rounding step of the largest value. Where the square of scores is too large for that, it is
computed for some queries, drawn at random: the loss has weights on their outputs alone, so that the gradients of all
queries, keys and values follow from these queries, and are compared whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cogvid.bench.cases import Problem
from cogvid.bench.methods import Compute
from cogvid.errors import UserError
from cogvid.interfaces.grid import Position

# Scores that the reference may hold.
_LARGEST = {"cpu": 1 << 25, "cuda": 1 << 27}


@dataclass(frozen=True)
class Deviation:
    """How far a result is from the reference.

    Attributes:
        name: of the result: output, queries, keys, values (their gradients).
        error: the largest, absolute.
        allowed: the largest that is.
    """

    name: str
    error: float
    allowed: float

    @property
    def wrong(self) -> bool:
        """Larger than allowed, or no number."""
        return not self.error <= self.allowed


class Reference:
    """The right results of a problem, computed once for all methods."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        s, grid = problem.settings, problem.mask.grid
        most = max(1, _LARGEST[problem.device.type] // (s.batch * s.heads * (s.text + grid.tokens)))
        order = torch.randperm(grid.tokens, generator=torch.Generator().manual_seed(s.seed))
        self.slots = order[:most].sort().values.to(problem.device)
        rows = problem.mask.rows(self.slots).expand(s.batch, 1, -1, -1)
        text = problem.text_mask[:, None, None].expand(-1, -1, len(self.slots), -1)
        self.visible = torch.cat([text, rows], dim=-1)
        self.exact = self._results(torch.float64)
        self.plain = self._results(problem.dtype)

    @property
    def whole(self) -> bool:
        """Whether every query is compared."""
        return len(self.slots) == self.problem.mask.grid.tokens

    def _results(self, dtype: torch.dtype) -> dict[str, Tensor]:
        problem, text = self.problem, self.problem.settings.text
        packed = problem.packed.to(dtype).detach().requires_grad_()
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        q = q[:, :, text:].index_select(2, self.slots)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if problem.bias is not None:
            grid = problem.mask.grid
            query = Position(*(axis[:, None] for axis in grid.position(self.slots)))
            key = Position(*(axis[None, :] for axis in grid.positions(problem.device)))
            scores = scores + F.pad(deepcopy(problem.bias).to(dtype)(query, key), (text, 0))
        output = scores.masked_fill(~self.visible, float("-inf")).softmax(-1) @ v
        weights = problem.weights.index_select(2, self.slots).to(dtype)
        (gradient,) = torch.autograd.grad(output, packed, weights)
        return {"output": output.detach(), **_named(gradient)}

    def deviations(self, run: Compute, backward: bool) -> Iterator[Deviation]:
        """Those of a method: of its output, and of the gradients if there is a backward pass."""
        problem = self.problem
        packed = problem.packed.detach().requires_grad_(backward)
        with torch.set_grad_enabled(backward):
            output = run(packed)
        picked = output.detach().index_select(2, self.slots)
        found = {"output": picked}
        if backward:
            weights = torch.zeros_like(problem.weights).index_copy_(
                2, self.slots, problem.weights.index_select(2, self.slots)
            )
            (gradient,) = torch.autograd.grad(output, packed, weights)
            found |= _named(gradient)
        for name, value in found.items():
            exact = self.exact[name]
            step = torch.finfo(problem.dtype).eps * _largest(exact)
            allowed = 2 * _largest(self.plain[name].double() - exact) + step
            yield Deviation(name, _largest(value.double() - exact), allowed)


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _named(gradient: Tensor) -> dict[str, Tensor]:
    return dict(zip(("queries", "keys", "values"), gradient.unbind(2), strict=True))


def train_step(run: Compute, problem: Problem) -> None:
    """One forward and backward pass, as in training.

    Raises:
        UserError: the method has no backward pass here.
    """
    packed = problem.packed.detach().requires_grad_()
    parameters = [] if problem.bias is None else list(problem.bias.parameters())
    try:
        torch.autograd.grad(run(packed), [packed, *parameters], problem.weights)
    except NotImplementedError as error:
        raise UserError(f"no backward pass: {error}") from error


def infer(run: Compute, problem: Problem) -> None:
    """One forward pass, as in sampling."""
    with torch.no_grad():
        run(problem.packed)
