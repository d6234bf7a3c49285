"""Plans what the rows of steps see in the plus channel, for all layers with one mask.

Shapes as in `cogvid.generation.plan`, and R rows, those of some steps.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.generation.layout import CacheLayout
from cogvid.generation.neighbours import Neighbours
from cogvid.generation.plan import Gathered, PlusChannel, Run
from cogvid.grid import Position


class VisibleKeys:
    """What the rows of a generation see under one mask.

    Args:
        mask: who sees whom.
        layout: of the cache.
        slots: of all rows, int64 (rows, 1), or (rows, samples) where samples have different ones; -1 for idle ones.
        text_scores: what is added to the scores of the text, -inf to hide padding; (B, H, T).
        fixed: make the tensors of all steps of a width equally large.

    Attributes:
        most: the most keys that a row sees.
    """

    def __init__(
        self, mask: CompactMask, layout: CacheLayout, slots: Tensor, text_scores: Tensor, *, fixed: bool
    ) -> None:
        self.grid, self.layout, self.text_scores, self.fixed = mask.grid, layout, text_scores, fixed
        self.idle, self.slots = slots < 0, slots.clamp(min=0)
        self.neighbours = Neighbours(mask, layout)
        self.counts = self.neighbours.counts(self.slots)
        self.most = int(self.counts.max())
        # A piece is read as far as it is filled, in each step anew.
        pieces = self.neighbours.pieces(self.slots[:, 0]) if slots.shape[1] == 1 and not fixed else None
        self.pieces = pieces if pieces is not None and (pieces >= 0).all() else None

    def of(self, rows: slice) -> VisibleRows:
        """What some rows see."""
        return VisibleRows(self, rows)


class VisibleRows:
    """What the rows of some steps see under one mask.

    Args:
        keys: see there.
        rows: which they are.
    """

    def __init__(self, keys: VisibleKeys, rows: slice) -> None:
        self.keys, self.text_scores, layout = keys, keys.text_scores, keys.layout
        self.slots, self.counts = keys.slots[rows], keys.counts[rows]
        most = keys.most if keys.fixed else int(self.counts.max())
        # Of the text and of as many frame keys, (R, B, H, T + most).
        self.scores = added_scores(self.text_scores, self.counts, most)
        if keys.fixed:
            self.counts = torch.full_like(self.counts, most)
        self.pieces = None if keys.pieces is None else keys.pieces[rows].tolist()
        # Where the caches of keys and values of each sample and head begin, and where rows are kept in them. Behind
        # each of them there is one more place, which idle rows write to, and nothing reads.
        batch, heads = self.text_scores.shape[:2]
        self.begins = torch.arange(2 * batch * heads).view(2, batch, heads, 1) * (layout.size + 1)
        own = layout.places.flatten()[self.slots].masked_fill(keys.idle[rows], layout.size)
        self.kept = each(own, batch)

    @cached_property
    def places(self) -> Tensor:
        """Where the frame keys stand in the cache, int64 (R, 1 or samples, most)."""
        most = self.scores.shape[-1] - self.keys.layout.text
        if self.pieces is None:
            return self.keys.neighbours.places(self.slots, most)
        first = torch.tensor(self.pieces)[:, None, None] + self.keys.layout.text
        return (first + torch.arange(most)).clamp(max=self.keys.layout.size - 1)

    def with_bias(self, bias: nn.Module | None) -> Tensor:
        """The scores, and a learned bias on those of the frame keys."""
        if bias is None:
            return self.scores
        grid, device, dtype = self.keys.grid, self.scores.device, self.scores.dtype
        axes = grid.position(self.slots[..., None]), grid.position(self.keys.layout.slots[self.places])
        query, key = (Position(*(axis.to(device) for axis in position)) for position in axes)
        scores = each(bias(query, key).permute(1, 2, 0, 3).to(dtype), len(self.text_scores))
        return self.scores + nn.functional.pad(scores, (self.keys.layout.text, 0))

    def plan(self, part: slice, scores: Tensor) -> PlusChannel:
        """Of the rows of one step, and their scores (S, B, H, T + most)."""
        batch, text, device = len(self.text_scores), self.keys.layout.text, scores.device
        # (S, B) to (2, B, H, S).
        kept = (self.begins + self.kept[part].T[:, None]).flatten().to(device)
        counts = self.counts[part].amax(1).tolist()
        if self.pieces is not None:
            runs = [slice(piece, piece + text + count) for piece, count in zip(self.pieces[part], counts, strict=True)]
            of_rows = [flat(own[None, ..., : text + count]) for own, count in zip(scores, counts, strict=True)]
            return PlusChannel(kept, tuple(map(Run, runs, of_rows)))
        count = max(counts)
        # (S, 1 or samples, count) to (2, B, H, S * count).
        places = each(self.places[part, :, :count], batch).transpose(0, 1).flatten(1)
        return PlusChannel(
            kept,
            Gathered(
                (self.begins + places[:, None]).flatten().to(device),
                self.text_scores.flatten(0, 1)[:, None],
                scores[..., text : text + count].permute(1, 2, 0, 3).flatten(0, 2)[:, None],
            ),
        )


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
