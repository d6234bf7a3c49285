"""What a bias adds to the scores; and a learned one by relative position, for bounded neighbourhoods."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cogvid.interfaces.grid import Position


def bias_scores(bias: nn.Module, query: Position, key: Position, heads: int) -> Tensor:
    """What a bias adds to the scores of frame keys, whole however it was broadcast.

    Args:
        bias: see `cogvid.interfaces.attention.AttentionBackend.bias`.
        query, key: positions that broadcast with each other.
        heads: H.

    Returns:
        (H, *broadcast shape).
    """
    shape = torch.broadcast_shapes(*(axis.shape for axis in (*query, *key)))
    scores: Tensor = bias(query, key)
    # The heads stand first, whatever is missing behind them.
    missing = len(shape) + 1 - scores.ndim
    return scores.reshape(*scores.shape[:1], *(1,) * missing, *scores.shape[1:]).expand(heads, *shape)


class RelativeBias(nn.Module):
    """One learned number per head and offset (frames, rows, columns) between query and key.

    After Swin Transformer (arXiv 2103.14030, section 3.2), with time as a third axis. Offsets beyond the
    extent share the value at its border.
    """

    def __init__(self, heads: int, extent: tuple[int, int, int]) -> None:
        """Args: heads; extent: largest offset + 1 along frames, rows and columns."""
        super().__init__()
        self.extent = extent
        self.table = nn.Parameter(torch.zeros(heads, *(2 * e - 1 for e in extent)))

    def forward(self, query: Position, key: Position) -> Tensor:
        """Bias to add to the scores, (heads, *broadcast shape)."""
        index = torch.zeros((), dtype=torch.long, device=self.table.device)
        for q, k, reach in zip(query, key, self.extent, strict=True):
            index = index * (2 * reach - 1) + (q - k).clamp(1 - reach, reach - 1) + reach - 1
        return self.table.flatten(1)[:, index]
