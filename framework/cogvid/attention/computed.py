"""Whether a backend computes what its mask says: one pass forward and backward, beside the dense computation."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.attention.dense import DenseAttention
from cogvid.attention.pattern import Fail
from cogvid.attention.prepare import prepare_attention
from cogvid.interfaces.attention import Attention, AttentionBackend
from cogvid.interfaces.mask import Visibility

# Of the largest value: what is off by more than a step of bfloat16 is no rounding.
_MOST = torch.finfo(torch.bfloat16).eps / 2
# Of each clip's two text slots.
_TEXT = ((True, True), (False, True))


def check_computation(
    backend: AttentionBackend, mask: Visibility, heads: int, head_size: int, device: torch.device, fail: Fail
) -> None:
    """Check the outputs and gradients of a small mask, in float32; `cogvid.testing` looks closer, and at more.

    Args:
        backend: whose computation.
        mask: of its pattern.
        heads, head_size: of queries, keys and values.
        device: where to compute.
        fail: told of failures of `outputs` and `gradients`.
    """
    draw = torch.Generator().manual_seed(0)
    bias = backend.bias(heads)
    if bias is not None:
        # As it begins it may add nothing.
        for parameter in bias.parameters():
            torch.nn.init.normal_(parameter, generator=draw)
        bias = bias.to(device)
    text = torch.tensor(_TEXT, device=device)
    slots = mask.grid.tokens
    shapes = [(len(text), heads, count, head_size) for count in (slots, text.shape[1] + slots, text.shape[1] + slots)]
    inputs = [torch.randn(shape, generator=draw).to(device).requires_grad_() for shape in shapes]
    weights = torch.randn(shapes[0], generator=draw).to(device)
    learned = [*inputs, *(() if bias is None else bias.parameters())]

    def output(attention: Attention) -> Tensor:
        q, k, v = inputs
        return attention(q, k, v, text, bias)

    def gradients(of: Tensor) -> list[Tensor]:
        found = torch.autograd.grad((of * weights).sum(), learned, allow_unused=True)
        return [torch.zeros_like(x) if own is None else own for x, own in zip(learned, found, strict=True)]

    own, wanted = output(prepare_attention(backend, mask, device)), output(DenseAttention(mask, device))
    if own.shape != wanted.shape:
        fail("outputs", f"have shape {tuple(own.shape)} where the queries have {tuple(wanted.shape)}")
        return
    if (off := _off(own, wanted)) > _MOST:
        fail("outputs", f"are not those that its pattern gives: off by {off:.2g} of the largest")
    if not own.requires_grad:
        fail("gradients", "are none: the outputs do not depend on the queries, keys and values")
        return
    if (off := max(map(_off, gradients(own), gradients(wanted)))) > _MOST:
        fail("gradients", f"are not those that its pattern gives: off by {off:.2g} of the largest")


def _off(found: Tensor, wanted: Tensor) -> float:
    """The largest error over the largest value; infinite where something is no number."""
    error = float((found - wanted).detach().abs().max() / wanted.detach().abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")
