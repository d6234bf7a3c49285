"""Keys and values that are computed once, and the passes through the model that write and read them.

Shapes as in `cogvid.grid`; S rows of a step, one slot of each sample in each; see `cogvid.generation.plan`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.attention.tiles import TiledAttention
from cogvid.generation.plan import StepPlan
from cogvid.grid import Grid
from cogvid.model.context import FullSequence, text_attention


class Cache:
    """Keys and values of both channels of every layer, for one batch of sequences; all of it is allocated at once.

    In the base channel, the text stands before each frame, so that what a slot sees lies in one piece; in the plus
    channel once, before all frames. Behind each piece is one place that nothing reads.

    Args:
        layers, heads, head_size: of the model.
        batch: B, with guidance's copies.
        text: T.
        grid: of the sequences.
        plus: whether there is a plus channel.
        dtype, device: of keys and values.

    Attributes:
        base: by layer, (2, F, B, H, T + N + 1, K): keys, then values; frames as in `cache_order`.
        plus: by layer, (2, B, H, T + tokens + 1, K), the frames in the same order.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_size: int,
        batch: int,
        text: int,
        grid: Grid,
        plus: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        def allocate(*shape: int) -> list[Tensor]:
            # Zeros: what is hidden by its score still is multiplied by a share of nothing, and has to be finite.
            return list(torch.zeros(layers, 2, *shape, head_size, dtype=dtype, device=device))

        self.base = allocate(grid.frames, batch, heads, text + grid.frame_tokens + 1)
        self.plus = allocate(batch, heads, text + grid.tokens + 1) if plus else []


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
        self.cache.plus[layer][..., : k.shape[2], :] = torch.stack([k, v])
        q = q[:, :, self.text :]
        return _among(self.masks[layer], self.frames, q.device)(q, k, v, self.text_mask, bias) if self.frames else q


@lru_cache(maxsize=64)
def _among(mask: CompactMask, frames: tuple[int, ...], device: torch.device) -> TiledAttention:
    """Attention of some frames, none of which sees another frame."""
    chosen = torch.tensor(frames)
    part = Grid(len(frames), mask.grid.height, mask.grid.width)
    return TiledAttention(CompactMask(part, mask.kinds[chosen][:, chosen], mask.spaces), device, frames)


class CachedStep:
    """The rows of one step: they write to the cache, then attend to what it holds.

    Args:
        cache: of the batch.
        plan: of the step.
    """

    text = 0

    def __init__(self, cache: Cache, plan: StepPlan) -> None:
        self.cache, self.plan = cache, plan

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        cached = self.cache.base[layer]
        _write(cached, self.plan.base_places, k, v)
        q = q.permute(2, 0, 1, 3)
        outputs = []
        for own in self.plan.base:
            if isinstance(own.frames, slice):
                keys = cached[:, own.frames, ..., : own.count, :].flatten(1, 3)
            else:
                keys = cached.flatten(1, 2)[..., : own.count, :].index_select(1, own.frames).flatten(1, 2)
            outputs.append(_attend(q[own.rows], keys, own.scores))
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).permute(1, 2, 0, 3)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`; the plan's scores have the bias."""
        cached, seen = self.cache.plus[layer], self.plan.plus[layer]
        _write(cached, self.plan.plus_places, k, v)
        if seen.places is None:
            return _attend(q, cached[..., : self.plan.text + seen.count, :].flatten(1, 2), seen.scores)
        # The text is the same for all rows: it need not be gathered for each.
        text = cached[..., : self.plan.text, :].flatten(1, 2)
        keys = cached.view(-1, q.shape[-1]).index_select(0, seen.places)
        keys = keys.view(2, q.shape[:3].numel(), seen.count, q.shape[-1])
        return _attend_text_and(q, text, keys, seen.scores)


def _write(cached: Tensor, places: Tensor, k: Tensor, v: Tensor) -> None:
    """Keep keys and values (B, H, S, K) in a cache (2, ..., K)."""
    cached.view(-1, cached.shape[-1]).index_copy_(0, places, torch.stack([k, v]).view(-1, cached.shape[-1]))


def _attend(q: Tensor, keys: Tensor, scores: Tensor) -> Tensor:
    """Queries (a, b, c, K), each with keys and values of its own, (2, a * b * c, count, K).

    `scores` is added to theirs and broadcasts to (a, b, c, count). On a CPU, products of single vectors are several
    times faster this way than in torch's attention, which is made for many queries with the same keys.
    """
    k, v = keys
    own = torch.bmm((q * q.shape[-1] ** -0.5).reshape(len(k), 1, -1), k.mT).view(*q.shape[:3], -1)
    return torch.bmm((own + scores).softmax(-1).view(len(k), 1, -1), v).view(q.shape)


def _attend_text_and(q: Tensor, text: Tensor, keys: Tensor, scores: Tensor) -> Tensor:
    """The same, with text (2, B * H, T, K) that all rows of q (B, H, S, K) share, in front of each row's keys."""
    (text_k, text_v), (k, v), rows = text, keys, q.shape[2]
    q = (q * q.shape[-1] ** -0.5).contiguous()
    to_text = torch.bmm(q.flatten(0, 1), text_k.mT).view(*q.shape[:3], text.shape[2])
    to_own = torch.bmm(q.view(len(k), 1, -1), k.mT).view(*q.shape[:3], keys.shape[2])
    share = (torch.cat([to_text, to_own], dim=-1) + scores).softmax(-1)
    of_text, of_own = share.split([text.shape[2], keys.shape[2]], dim=-1)
    seen = torch.bmm(of_own.reshape(len(k), 1, keys.shape[2]), v).view(len(text_v), rows, -1)
    return torch.baddbmm(seen, of_text.flatten(0, 1), text_v).view(q.shape)
