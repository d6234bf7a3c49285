"""The computation of a backend's attention: its own, or over tiles."""

from __future__ import annotations

import torch

from cogvid.attention.compact import compact_mask
from cogvid.attention.tiles import TiledAttention
from cogvid.interfaces.attention import Attention, AttentionBackend
from cogvid.interfaces.mask import Visibility


def prepare_attention(backend: AttentionBackend, mask: Visibility, device: torch.device) -> Attention:
    """Lay out the computation of one layer's attention.

    Args:
        backend: asked first; tiles, on plain PyTorch, where it has no way of its own.
        mask: who sees whom.
        device: where the queries will be.

    Raises:
        UserError: the backend cannot run there.
    """
    return backend.prepare(mask, device) or TiledAttention(compact_mask(mask), device)
