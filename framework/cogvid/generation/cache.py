"""Keys and values that are computed once, and the passes through the model that write and read them.

Shapes as in `cogvid.interfaces.grid`; R rows of a pass, see `cogvid.generation.passes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.attention.tiles import TiledAttention
from cogvid.generation.layout import CacheLayout
from cogvid.generation.passes import Blocks, Cache, Pass, View
from cogvid.interfaces.grid import Grid
from cogvid.model.context import FullSequence, text_attention


class KnownSlots(FullSequence):
    """The text and the frames that are known before the first pass, at once; leaves them in the cache.

    Args:
        cache: to write to.
        masks: of the plus channel's layers, for the whole sequence.
        grid: of the whole sequence.
        given, known: which of its frames are given, and which are known, (F,).
        text_mask: bool (B, T).
    """

    def __init__(
        self,
        cache: Cache,
        masks: Sequence[CompactMask],
        grid: Grid,
        given: tuple[bool, ...],
        known: tuple[bool, ...],
        text_mask: Tensor,
    ) -> None:
        self.cache, self.masks = cache, masks
        self.chosen = tuple(frame for frame, is_known in enumerate(known) if is_known)
        self.slots = torch.arange(grid.tokens)[torch.tensor(known).repeat_interleave(grid.frame_tokens)]
        part = Grid(max(1, len(self.chosen)), grid.height, grid.width)
        super().__init__(None, part, tuple(given[frame] for frame in self.chosen), text_mask)

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        self._keep(self.cache.base[layer], self.cache.frames, k, v)
        if not self.chosen:
            return text_attention(q, k, v, self.text_mask)
        return super().base(layer, q, k, v)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        self._keep(self.cache.plus[layer], self.cache.layouts[layer], k, v)
        q = q[:, :, self.text :]
        return _among(self.masks[layer], self.chosen, q.device)(q, k, v, self.text_mask, bias) if self.chosen else q

    def _keep(self, cached: Tensor, layout: CacheLayout, k: Tensor, v: Tensor) -> None:
        """Keys and values (B, H, T + S, K), the text in front of every part."""
        both, t = torch.stack([k, v]), self.text
        cached[..., :t, :] = both[:, None, ..., :t, :]
        part, place = (x[self.slots].to(k.device) for x in (layout.part, layout.place))
        cached.permute(1, 4, 0, 2, 3, 5)[part, place] = both[..., t:, :].permute(3, 0, 1, 2, 4)


@lru_cache(maxsize=64)
def _among(mask: CompactMask, frames: tuple[int, ...], device: torch.device) -> TiledAttention:
    """Attention of some frames, none of which sees another frame."""
    chosen = torch.tensor(frames)
    part = Grid(len(frames), mask.grid.height, mask.grid.width)
    return TiledAttention(CompactMask(part, mask.kinds[chosen][:, chosen], mask.spaces), device, frames)


class PassContext:
    """The rows of one pass, as one sequence: they write to the cache, then attend to what it holds.

    Args:
        cache: of the batch.
        now: the pass.
    """

    text = 0

    def __init__(self, cache: Cache, now: Pass) -> None:
        self.cache, self.now = cache, now

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`; (1, H, R, K)."""
        return _through(self.cache.base[layer], self.now.base, q, k, v)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`; the pass's scores have the bias. (1, H, R, K)."""
        return _through(self.cache.plus[layer], self.now.plus[layer], q, k, v)


def _through(cached: Tensor, view: View, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    size, scale = q.shape[-1], q.shape[-1] ** -0.5
    cached.view(-1, size).index_copy_(0, view.kept, torch.stack([k, v]).view(-1, size))
    blocks = view.seen if isinstance(view.seen, Blocks) else view.seen.text
    own, (keys, values) = _in_blocks(q, blocks), _read(cached, blocks)
    scores = torch.baddbmm(blocks.scores, own, keys.mT, alpha=scale)
    if isinstance(view.seen, Blocks):
        return _in_rows(torch.bmm(scores.softmax(-1), values), blocks, q.shape)
    # The text is the same for all rows of a sequence and is not gathered for each.
    k, v = cached.view(-1, size).index_select(0, view.seen.places).view(2, len(view.seen.scores), -1, size)
    to_own = torch.baddbmm(view.seen.scores, q.reshape(len(k), 1, size), k.mT, alpha=scale)
    to_text = _in_rows(scores, blocks, q.shape)
    share = torch.cat([to_text, to_own.view(*q.shape[:3], -1)], dim=-1).softmax(-1)
    of_text, of_own = share.split([scores.shape[-1], k.shape[1]], dim=-1)
    read = torch.bmm(of_own.reshape(len(k), 1, -1), v).view(q.shape)
    return read + _in_rows(torch.bmm(_in_blocks(of_text, blocks), values), blocks, q.shape)


def _read(cached: Tensor, blocks: Blocks) -> Tensor:
    """Keys and values of blocks, (2, G * H, keys, K)."""
    parts, entries = cached.flatten(1, 2), blocks.groups.entries
    # Whole ones: what is chosen of a part that is not in one piece is copied twice.
    chosen = parts[:, entries] if isinstance(entries, slice) else parts.index_select(1, entries)
    return chosen[..., : blocks.scores.shape[-1], :].flatten(1, 2)


def _in_blocks(x: Tensor, blocks: Blocks) -> Tensor:
    """Rows (1, H, R, C) as (G * H, W, C)."""
    order, width = blocks.groups.order, blocks.scores.shape[1]
    rows = x[0] if order is None else x[0].index_select(1, order)
    return rows.unflatten(1, (-1, width)).transpose(0, 1).reshape(-1, width, x.shape[-1])


def _in_rows(x: Tensor, blocks: Blocks, shape: Sequence[int]) -> Tensor:
    """Blocks (G * H, W, C) as rows (1, H, R, C)."""
    heads = shape[1]
    rows = x.unflatten(0, (-1, heads)).transpose(0, 1).reshape(heads, -1, x.shape[-1])
    return (rows if blocks.groups.order is None else rows.index_select(1, blocks.groups.back))[None]
