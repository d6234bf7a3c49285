"""Where keys and values come from: here a whole sequence at once, in `cogvid.generation.cache` earlier steps.

The layers know neither; they ask a context for both channels' attention. See `transformer.py` for the shapes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import masked_attention
from cogvid.attention.prepare import prepare_attention
from cogvid.attention.tiles import TiledAttention
from cogvid.interfaces.attention import Attention, AttentionBackend
from cogvid.interfaces.grid import Grid, Position
from cogvid.interfaces.mask import Visibility


class AttentionContext(Protocol):
    """One pass through the layers: `text` text slots (all or none), then frame slots."""

    text: int

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Base channel: text sees text; a frame slot sees text and its own frame. (B, H, text + S, K)."""
        ...

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """Plus channel of the frame slots: text and all visible frame slots. (B, H, S, K)."""
        ...


def text_attention(q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor) -> Tensor:
    """Text sees unpadded text; padding sees itself, so that its states stay finite."""
    own = torch.eye(text_mask.shape[1], dtype=torch.bool, device=text_mask.device)
    return masked_attention(q, k, v, (text_mask[:, None, :] | own)[:, None])


class FullSequence:
    """All slots of a sequence in one pass, for training and scoring."""

    def __init__(
        self, backend: AttentionBackend | None, grid: Grid, given: tuple[bool, ...], text_mask: Tensor
    ) -> None:
        """Args: backend of the plus channel; grid; given frames, (F,); text_mask, bool (B, T)."""
        self.backend, self.grid, self.given, self.text_mask = backend, grid, given, text_mask
        self.text = text_mask.shape[1]

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`."""
        t = self.text
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.text_mask)
        frames = base_attention(self.grid, self.given, q.device)(q[:, :, t:], k, v, self.text_mask, None)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`."""
        assert self.backend is not None
        attention = _plus_attention(self.backend, self.grid, self.given, layer, q.device)
        return attention(q[:, :, self.text :], k, v, self.text_mask, bias)


@lru_cache(maxsize=256)
def _plus_attention(
    backend: AttentionBackend, grid: Grid, given: tuple[bool, ...], layer: int, device: torch.device
) -> Attention:
    """The attention of a layer, whose mask does not change between steps."""
    return prepare_attention(backend, Visibility(backend.pattern, grid, given, layer), device)


@lru_cache(maxsize=16)
def base_attention(grid: Grid, given: tuple[bool, ...], device: torch.device) -> TiledAttention:
    """The base channel's: each frame sees itself, whole where it is given, raster-causally where not."""
    return TiledAttention(compact_mask(Visibility(_same_frame, grid, given, layer=0)), device)


def _same_frame(query: Position, key: Position, layer: int) -> Tensor:
    return query.frame == key.frame
