"""How exact a computation of attention has to be: about as exact as the plain one in the same precision.

Shapes: B batch, L sequence, T text slots, H heads, K channels of a head; L = T + tokens of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogvid.attention.bias import bias_scores
from cogvid.attention.dense import DenseAttention
from cogvid.interfaces.attention import Attention
from cogvid.interfaces.grid import Position

_OUTPUT, _INPUTS = "output", ("queries", "keys", "values")
Results = dict[str, Tensor | None]


@dataclass(frozen=True)
class Inputs:
    """Arguments of an `Attention`, laid out in memory as the transformer's layers make them.

    Attributes:
        packed: queries, keys and values, (B, L, 3, H, K).
        weights: gradient of a loss with respect to the output, (B, tokens, H, K).
        text_mask: bool (B, T).
        bias: adds to the scores, or None.
        gradients: whether gradients are asked for.
    """

    packed: Tensor
    weights: Tensor
    text_mask: Tensor
    bias: nn.Module | None
    gradients: bool = True

    def to(self, dtype: torch.dtype, bias: torch.dtype | None = None) -> Inputs:
        """A copy in another precision; the bias's parameters in one of their own, if given."""
        module = deepcopy(self.bias).to(bias or dtype) if self.bias is not None else None
        return Inputs(self.packed.to(dtype), self.weights.to(dtype), self.text_mask, module, self.gradients)

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of the frame slots (B, H, tokens, K), keys and values (B, H, L, K): none of them contiguous."""
        q, k, v = self.packed.permute(2, 0, 3, 1, 4)
        return q[:, :, self.text_mask.shape[1] :], k, v

    def output(self, attention: Attention) -> Tensor:
        """What an attention makes of them, (B, H, tokens, K)."""
        return attention(*self.split(), self.text_mask, self.bias)

    def results(self, attention: Attention) -> Results:
        """Output and gradients by name; the gradient of what does not reach the output is None."""
        if not self.gradients:
            with torch.no_grad():
                return {_OUTPUT: self.output(attention)}
        q, k, v = (x.detach().requires_grad_() for x in self.split())
        output = attention(q, k, v, self.text_mask, self.bias)
        named = dict(zip(_INPUTS, (q, k, v), strict=True))
        if self.bias is not None:
            named |= {f"bias {name}": p for name, p in self.bias.named_parameters() if p.requires_grad}
        gradients: tuple[Tensor | None, ...] = (None,) * len(named)
        if output.requires_grad and output.shape == q.shape:
            weights = self.weights.transpose(1, 2).to(output.dtype)
            gradients = torch.autograd.grad(output, list(named.values()), weights, allow_unused=True)
        return {_OUTPUT: output.detach(), **dict(zip(named, gradients, strict=True))}


class EagerAttention(DenseAttention):
    """The plain computation in the precision of its inputs, each step rounded: the measure of rounding."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`."""
        tokens, text = self.grid.tokens, text_mask.shape[1]
        visible = F.pad(self.visible, (text, 0)).repeat(len(q), 1, 1, 1)
        visible[..., :text] = text_mask[:, None, None]
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if bias is not None:
            slots = self.grid.positions(q.device)
            query, key = (Position(*(axis.view(shape) for axis in slots)) for shape in ((tokens, 1), (1, tokens)))
            scores = scores + F.pad(bias_scores(bias, query, key, q.shape[1]), (text, 0)).to(scores.dtype)
        return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v


def measured_in(dtype: torch.dtype) -> torch.dtype:
    """The precision whose rounding is measured for `dtype`: nothing is wide enough to measure that of float64."""
    return torch.float32 if dtype is torch.float64 else dtype


def steps_off(value: Tensor, exact: Tensor, dtype: torch.dtype) -> float:
    """The largest error, in rounding steps of the largest exact value.

    Args:
        value: a result.
        exact: the same in float64.
        dtype: whose rounding steps.
    """
    error = float((value.double() - exact).abs().max())
    step = torch.finfo(dtype).eps * float(exact.abs().max())
    return error / step if step else float("inf") if error else 0.0


def allowed_steps(plain: float, dtype: torch.dtype) -> float:
    """How many rounding steps a result may be off: as twice the plain computation, and one.

    Args:
        plain: how many the plain computation is off, in the precision `measured_in(dtype)`.
        dtype: of the result.
    """
    # What is exact to other precisions is, in float64, itself rounded as much.
    factor = 3 if dtype is torch.float64 else 2
    return factor * plain + 1


@dataclass(frozen=True)
class Measured:
    """How far a result is off.

    Attributes:
        name: of the result: output, queries, keys, values (their gradients) or a parameter of the bias.
        dtype: of queries, keys and values.
        found: rounding steps of `largest` that it is off.
        plain: those that the plain computation is off.
        largest: absolute value of the exact result.
        slot: where it is furthest off, counted along the axis of slots; None for the bias.
    """

    name: str
    dtype: torch.dtype
    found: float
    plain: float
    largest: float
    slot: int | None

    @property
    def check(self) -> str:
        """Which check it belongs to."""
        return _check(self.name)

    def problem(self, plain: float) -> str | None:
        """What is wrong in words; `plain`: the most steps that the plain computation is off in any case."""
        allowed = allowed_steps(plain, self.dtype)
        if self.found <= allowed:
            return None
        step = torch.finfo(self.dtype).eps * self.largest
        off = f"{self.name} off by {self.found * step:.2g}, allowed {allowed * step:.2g}"
        return f"{off}, largest right value {self.largest:.2g}"


def measure(
    attention: Attention,
    dense: DenseAttention,
    eager: EagerAttention,
    inputs: Inputs,
    dtype: torch.dtype,
    bias: torch.dtype | None,
) -> Iterator[Measured | tuple[str, str]]:
    """Measure output and gradients; (check, problem) where there is nothing to measure.

    Args:
        attention: in question.
        dense, eager: the reference and the plain computation of the same mask.
        inputs: in float64.
        dtype: of queries, keys and values.
        bias: of the bias's parameters, None without a bias.
    """
    rounded = inputs.to(measured_in(dtype), measured_in(bias or dtype))
    found = rounded.to(dtype, bias).results(attention)
    plain, exact = rounded.results(eager), rounded.to(torch.float64).results(dense)
    for name, value in found.items():
        expected, about = exact[name], plain[name]
        if expected is None or about is None:
            if value is not None and value.any():
                yield _check(name), f"{name} has a gradient and should have none"
        elif value is None:
            yield _check(name), f"{name} has no gradient"
        elif value.shape != expected.shape:
            yield _check(name), f"{name} has shape {tuple(value.shape)}, not {tuple(expected.shape)}"
            return
        elif name == _OUTPUT and value.dtype is not dtype:
            yield _check(name), f"{name} is {value.dtype}, not {dtype}"
        else:
            slot = int((value - expected).abs().amax((0, 1, 3)).argmax()) if name in (_OUTPUT, *_INPUTS) else None
            off = steps_off(value, expected, dtype), steps_off(about, expected, measured_in(dtype))
            yield Measured(name, dtype, *off, float(expected.abs().max()), slot)


def _check(name: str) -> str:
    return "outputs" if name == _OUTPUT else "gradients"
