"""The reference computation: every backend means this, however it computes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogvid.attention.bias import bias_scores
from cogvid.interfaces.grid import Position
from cogvid.interfaces.mask import Visibility


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


class DenseAttention:
    """Attention over the whole mask: what every other way of computing it is held to.

    Args:
        mask: who sees whom among the frame slots.
        device: where the queries will be.
    """

    def __init__(self, mask: Visibility, device: torch.device) -> None:
        self.grid, self.visible = mask.grid, mask.dense(device)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`."""
        text = text_mask[:, None, None].expand(-1, -1, self.grid.tokens, -1)
        visible = torch.cat([text, self.visible.expand(len(q), 1, -1, -1)], dim=-1)
        scores = None
        if bias is not None:
            axes = self.grid.positions(q.device)
            query, key = (Position(*(axis.unsqueeze(d) for axis in axes)) for d in (1, 0))
            # Text keys are not on the grid: their scores stay as they are.
            scores = F.pad(bias_scores(bias, query, key, q.shape[1]), (text.shape[-1], 0))
        return masked_attention(q, k, v, visible, scores)
