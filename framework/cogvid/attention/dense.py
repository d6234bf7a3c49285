"""The reference computation: every backend means this, however it computes it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def masked_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention over the visible keys.

    Args:
        q: (..., Q, K) queries.
        k, v: (..., S, K) keys and values.
        visible: bool, broadcasts to (..., Q, S); every query sees at least one key.
        bias: float, added to the scores, broadcasts to (..., Q, S).

    Returns:
        (..., Q, K).
    """
    if bias is None:
        # Four dimensions are what torch's fast kernels take.
        queries, keys, values, mask = (x.flatten(0, -4) for x in (q, k, v, visible))
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).view(q.shape)
    # Where the bias needs a gradient, torch's own kernels fall back to this, in more passes over the scores.
    # In place: the scores are the largest tensor of a training step, and nothing needs them unmasked.
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.add_(bias).masked_fill_(~visible, float("-inf")).softmax(-1) @ v
