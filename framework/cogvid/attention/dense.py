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
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~visible, float("-inf")))
