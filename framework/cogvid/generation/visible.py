"""Lays out what the rows of steps see in the plus channel, for all layers with one mask.

Shapes as in `cogvid.generation.step`, and R rows, those of some steps.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.bias import bias_scores
from cogvid.attention.compact import CompactMask
from cogvid.generation.layout import CacheLayout
from cogvid.generation.neighbours import Neighbours
from cogvid.generation.step import Gathered, OnePiece, PlusChannel


class VisibleKeys:
    """What the rows of a generation see under one mask.

    Args:
        mask: who sees whom.
        layout: of the cache.
        slots: of all rows, int64 (rows, 1), or (rows, samples) where samples have different ones; -1 for idle ones.
        text_scores: what is added to the scores of the text, -inf to hide padding; (B, H, T).
        fixed: make the tensors of all steps of a width equally large.

    Attributes:
        counts: how many keys each row sees, int64 (rows, 1 or samples).
        most: the largest of them.
        pieces: where the piece of the cache begins whose first keys each row sees, int64 (rows,); None to gather them.
    """

    def __init__(
        self, mask: CompactMask, layout: CacheLayout, slots: Tensor, text_scores: Tensor, *, fixed: bool
    ) -> None:
        self.grid, self.layout, self.text_scores, self.fixed = mask.grid, layout, text_scores, fixed
        self.of_text = text_scores.flatten(0, 1)[:, None]
        self.slots = slots.clamp(min=0)
        # Behind everything there is one more place, which idle rows write to, and nothing reads.
        self.own = layout.places.flatten()[self.slots].masked_fill(slots < 0, layout.size)
        self.neighbours = Neighbours(mask, layout)
        self.counts = self.neighbours.counts(self.slots)
        self.most = int(self.counts.max())
        # A piece is read as far as it is filled, in each step anew.
        pieces = self.neighbours.pieces(self.slots[:, 0]) if slots.shape[1] == 1 and not fixed else None
        self.pieces = pieces if pieces is not None and (pieces >= 0).all() else None


class VisibleRows:
    """What the rows of some steps see under one mask.

    Args:
        keys: see there.
        rows: which they are.
    """

    def __init__(self, keys: VisibleKeys, rows: slice) -> None:
        (batch, heads, self.text), device, layout = keys.text_scores.shape, keys.text_scores.device, keys.layout
        self.keys, self.slots, counts = keys, keys.slots[rows], keys.counts[rows]
        self.most = keys.most if keys.fixed else int(counts.max())
        # Of the text and of as many frame keys, (R, B, H, T + most).
        self.scores = added_scores(keys.text_scores, counts, self.most)
        self.counts = torch.full_like(counts, self.most) if keys.fixed else counts
        self.pieces = None if keys.pieces is None else keys.pieces[rows].tolist()
        # Where the keys, then the values of each sample and head begin in the flat cache.
        self.begins = torch.arange(2 * batch * heads, device=device).view(2, batch, heads, 1) * (layout.size + 1)
        self.own = each(keys.own[rows], batch).to(device)

    @cached_property
    def places(self) -> Tensor:
        """Where the frame keys stand in the cache, int64 (R, 1 or samples, most)."""
        if self.pieces is None:
            places = self.keys.neighbours.places(self.slots, self.most)
        else:
            first = torch.tensor(self.pieces)[:, None, None] + self.text
            places = (first + torch.arange(self.most)).clamp(max=self.keys.layout.size - 1)
        return places.to(self.scores.device)

    def with_bias(self, bias: nn.Module | None) -> Tensor:
        """The scores, and a learned bias on those of the frame keys."""
        if bias is None:
            return self.scores
        slots = self.slots.to(self.places.device)[..., None], self.keys.layout.slots.to(self.places.device)[self.places]
        query, key = map(self.keys.grid.position, slots)
        added = bias_scores(bias, query, key, self.scores.shape[2])
        scores = each(added.permute(1, 2, 0, 3).to(self.scores.dtype), self.scores.shape[1])
        return self.scores + nn.functional.pad(scores, (self.text, 0))

    def plus(self, part: slice, scores: Tensor) -> PlusChannel:
        """Of the rows of one step, and their scores (S, B, H, T + most)."""
        # (S, B) to (2, B, H, S).
        kept = (self.begins + self.own[part].T[:, None]).flatten()
        counts = self.counts[part].amax(1).tolist()
        if self.pieces is not None:
            rows = zip(self.pieces[part], (self.text + count for count in counts), scores, strict=True)
            return PlusChannel(
                kept, tuple(OnePiece(slice(piece, piece + end), flat(own[None, ..., :end])) for piece, end, own in rows)
            )
        count = max(counts)
        # (S, 1 or samples, count) to (2, B, H, S * count).
        places = each(self.places[part, :, :count], scores.shape[1]).transpose(0, 1).flatten(1)
        of_keys = scores[..., self.text : self.text + count].permute(1, 2, 0, 3).flatten(0, 2)[:, None]
        return PlusChannel(kept, Gathered((self.begins + places[:, None]).flatten(), self.keys.of_text, of_keys))


def added_scores(text_scores: Tensor, counts: Tensor, most: int) -> Tensor:
    """What hides padding, and what lies behind the first `counts` of `most` keys.

    Args:
        text_scores: -inf for padding, (B, H, T).
        counts: int64 (R, 1 or samples).
        most: K.

    Returns:
        (R, B, H, T + K).
    """
    hidden = (torch.arange(most) >= counts[..., None]).to(text_scores.device)
    behind = torch.zeros(hidden.shape, dtype=text_scores.dtype, device=hidden.device)
    behind = each(behind.masked_fill_(hidden, -torch.inf), len(text_scores))[:, :, None]
    text = text_scores.expand(len(counts), -1, -1, -1)
    return torch.cat([text, behind.expand(*text.shape[:3], -1)], dim=-1)


def each(x: Tensor, batch: int) -> Tensor:
    """(R, 1 or samples, ...) for each sample and each copy of it, (R, batch, ...)."""
    if x.shape[1] == 1:
        return x.expand(-1, batch, *x.shape[2:])
    return x.repeat(1, batch // x.shape[1], *(1 for _ in x.shape[2:]))


def flat(scores: Tensor) -> Tensor:
    """(S, B, H, count) as (S * B * H, 1, count)."""
    return scores.flatten(0, 2)[:, None]
