"""Keys and values that are computed once, and the passes through the model that write and read them.

Shapes as in `cogvid.interfaces.grid`; S rows of a step, one slot of each sample in each; see `cogvid.generation.step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.attention.tiles import TiledAttention
from cogvid.generation.layout import CacheLayout
from cogvid.generation.step import Gathered, Step
from cogvid.interfaces.grid import Grid
from cogvid.model.context import FullSequence, text_attention


class Cache:
    """Keys and values of both channels of every layer, for one batch of sequences; all of it is allocated at once.

    In the base channel, the text stands before each frame, so that what a slot sees lies in one piece. Behind each
    frame, and each layer of the plus channel, is one place that nothing reads.

    Args:
        layers, heads, head_size: of the model.
        batch: B, with guidance's copies.
        text: T.
        grid: of the sequences.
        layouts: of the plus channel's layers; empty without one.
        dtype, device: of keys and values.

    Attributes:
        base: by layer, (2, F, B, H, T + N + 1, K): keys, then values; frames as `frame_ranks` says.
        plus: by layer, (2, B, H, L + 1, K).
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_size: int,
        batch: int,
        text: int,
        grid: Grid,
        layouts: Sequence[CacheLayout],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        def allocate(*shape: int) -> Tensor:
            # Zeros: what is hidden by its score still is multiplied by a share of nothing, and has to be finite.
            return torch.zeros(2, *shape, head_size, dtype=dtype, device=device)

        self.layouts = layouts
        self.base = [allocate(grid.frames, batch, heads, text + grid.frame_tokens + 1) for _ in range(layers)]
        self.plus = [allocate(batch, heads, layout.size + 1) for layout in layouts]


class KnownSlots(FullSequence):
    """The text and the frames that are known before the first step, in one pass; leaves them in the cache.

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
        self.frames = tuple(frame for frame, is_known in enumerate(known) if is_known)
        part = Grid(max(1, len(self.frames)), grid.height, grid.width)
        super().__init__(None, part, tuple(given[frame] for frame in self.frames), text_mask)

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        t, n = self.text, self.grid.frame_tokens
        for cached, x in zip(self.cache.base[layer], (k, v), strict=True):
            cached[..., :t, :] = x[:, :, :t]
            cached[: len(self.frames), ..., t : t + n, :] = x[:, :, t:].unflatten(2, (-1, n)).movedim(2, 0)
        if not self.frames:
            return text_attention(q, k, v, self.text_mask)
        return super().base(layer, q, k, v)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        cached, layout, t, both = self.cache.plus[layer], self.cache.layouts[layer], self.text, torch.stack([k, v])
        for begin in layout.texts.tolist():
            cached[..., begin : begin + t, :] = both[..., :t, :]
        cached.index_copy_(3, layout.places[list(self.frames)].flatten().to(k.device), both[..., t:, :])
        q = q[:, :, t:]
        return _among(self.masks[layer], self.frames, q.device)(q, k, v, self.text_mask, bias) if self.frames else q


@lru_cache(maxsize=64)
def _among(mask: CompactMask, frames: tuple[int, ...], device: torch.device) -> TiledAttention:
    """Attention of some frames, none of which sees another frame."""
    chosen = torch.tensor(frames)
    part = Grid(len(frames), mask.grid.height, mask.grid.width)
    return TiledAttention(CompactMask(part, mask.kinds[chosen][:, chosen], mask.spaces), device, frames)


class StepContext:
    """The rows of one step: they write to the cache, then attend to what it holds.

    Args:
        cache: of the batch.
        step: which.
    """

    text = 0

    def __init__(self, cache: Cache, step: Step) -> None:
        self.cache, self.step = cache, step

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        cached = self.cache.base[layer]
        _keep(cached, self.step.base_kept, k, v)
        q = q.permute(2, 0, 1, 3)
        outputs = []
        for own in self.step.base:
            if isinstance(own.frames, slice):
                keys = cached[:, own.frames, ..., : own.count, :].flatten(1, 3)
            else:
                keys = cached.flatten(1, 2)[..., : own.count, :].index_select(1, own.frames).flatten(1, 2)
            outputs.append(_attend(q[own.rows], keys, own.scores))
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).permute(1, 2, 0, 3)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`; the step's scores have the bias."""
        cached, plus = self.cache.plus[layer], self.step.plus[layer]
        _keep(cached, plus.kept, k, v)
        if isinstance(plus.seen, Gathered):
            keys = cached.view(-1, q.shape[-1]).index_select(0, plus.seen.places)
            # Some piece has the text in front, which is the same for all rows and need not be gathered for each.
            text = cached[..., : plus.seen.text_scores.shape[-1], :].flatten(1, 2)
            return _attend_text_and(q, text, keys, plus.seen)
        outputs = [
            _attend(own, cached[..., piece.keys, :].flatten(1, 2), piece.scores)
            for own, piece in zip(q.split(1, dim=2), plus.seen, strict=True)
        ]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _keep(cached: Tensor, places: Tensor, k: Tensor, v: Tensor) -> None:
    """Write keys and values (B, H, S, K) to a cache (2, ..., K)."""
    cached.view(-1, cached.shape[-1]).index_copy_(0, places, torch.stack([k, v]).view(-1, cached.shape[-1]))


def _attend(q: Tensor, keys: Tensor, scores: Tensor) -> Tensor:
    """Queries (a, b, c, K), each with keys and values of its own, (2, a * b * c, count, K).

    `scores`, (a * b * c, 1, count), is added to theirs. On a CPU, products of single vectors are several times faster
    this way than in torch's attention, which is made for many queries with the same keys.
    """
    k, v = keys
    own = torch.baddbmm(scores, q.reshape(len(k), 1, -1), k.mT, alpha=q.shape[-1] ** -0.5)
    return torch.bmm(own.softmax(-1), v).view(q.shape)


def _attend_text_and(q: Tensor, text: Tensor, keys: Tensor, seen: Gathered) -> Tensor:
    """Queries (B, H, S, K), with text (2, B * H, T, K) that all rows share, and the keys that are gathered for each."""
    (text_k, text_v), rows, scale = text, q.shape[2], q.shape[-1] ** -0.5
    k, v = keys.view(2, len(seen.scores), -1, q.shape[-1])
    to_text = torch.baddbmm(seen.text_scores, q.flatten(0, 1), text_k.mT, alpha=scale)
    to_own = torch.baddbmm(seen.scores, q.reshape(len(k), 1, -1), k.mT, alpha=scale)
    share = torch.cat([to_text, to_own.view(len(text_k), rows, -1)], dim=-1).softmax(-1)
    of_text, of_own = share.split([text_k.shape[1], k.shape[1]], dim=-1)
    of_own = torch.bmm(of_own.reshape(len(k), 1, -1), v).view(len(text_k), rows, -1)
    return torch.baddbmm(of_own, of_text, text_v).view(q.shape)
