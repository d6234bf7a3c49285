"""Where keys and values stand in a cache, so that what a slot sees lies in one piece wherever it can.

Shapes as in `cogvid.interfaces.grid`; P places of a part, the text first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.attention.partitions import same_neighbours
from cogvid.interfaces.grid import Grid

# A mask that shows more than one key in so many is computed with all keys, the others hidden: copying the keys of each
# query by itself takes longer.
_SPARSE = 10
# Elements of a table of all slots and what they see, up to which there is one.
TABLE = 1 << 24


def frame_ranks(known: tuple[bool, ...]) -> Tensor:
    """The place of each frame in the cache: the known ones come first, int64 (F,)."""
    return (~torch.tensor(known)).long().argsort(stable=True).argsort()


@dataclass(frozen=True, eq=False)
class CacheLayout:
    """The places of one layer's cache.

    A cache is made of parts, the text in front of each. Where a pattern divides a frame into windows that see nothing
    of each other, each window of all frames is a part; in the base channel each frame is one; else all is one part.

    Attributes:
        grid: of the sequences.
        text: T.
        parts: how many.
        size: P.
        part, place: where each slot stands, int64 (L,).
        leading: how many places of its part each slot sees, where that is all it sees, int64 (L,); None where some
            slot sees others.
        mask: what is seen otherwise; None in the base channel.
    """

    grid: Grid
    text: int
    parts: int
    size: int
    part: Tensor
    place: Tensor
    leading: Tensor | None
    mask: CompactMask | None = None

    @classmethod
    def of_frames(cls, grid: Grid, known: tuple[bool, ...], text: int) -> CacheLayout:
        """The base channel's: a slot sees the text and its own frame up to itself."""
        place = torch.arange(grid.frame_tokens).repeat(grid.frames) + text
        part = frame_ranks(known).repeat_interleave(grid.frame_tokens)
        return cls(grid, text, grid.frames, text + grid.frame_tokens, part, place, place + 1)

    @classmethod
    def of(cls, mask: CompactMask, known: tuple[bool, ...], text: int) -> CacheLayout:
        """The plus channel's of a layer with a mask, the known frames in front of the others in each part."""
        frames, n = mask.grid.frames, mask.grid.frame_tokens
        windows = _windows(mask, text)
        for labels in (windows, torch.zeros_like(windows)):
            sizes = labels.bincount()
            within = torch.empty_like(labels)
            by_window = labels.argsort(stable=True)
            within[by_window] = torch.arange(n) - (sizes.cumsum(0) - sizes)[labels[by_window]]
            place = (text + frame_ranks(known)[:, None] * sizes[labels] + within).flatten()
            size = text + frames * int(sizes.max())
            leading = _leading(mask, known, labels, place, text)
            if leading is not None:
                break
        return cls(mask.grid, text, len(sizes), size, labels.repeat(frames), place, leading, mask)

    @cached_property
    def slots(self) -> Tensor:
        """What stands where, as flat slots, int64 (parts, P); 0 where the text or nothing stands."""
        slots = torch.zeros(self.parts, self.size, dtype=torch.long)
        slots[self.part, self.place] = torch.arange(len(self.part))
        return slots

    @property
    def sparse(self) -> bool:
        """Whether slots see so little that their keys are gathered for each."""
        if self.leading is not None or self.mask is None:
            return False
        tokens = self.mask.grid.tokens
        return tokens**2 > TABLE or self.mask.pairs * _SPARSE < tokens**2

    @cached_property
    def neighbours(self) -> Neighbours:
        """Of a sparse mask."""
        assert self.mask is not None
        return Neighbours(self.mask, self)

    @property
    def seen(self) -> int:
        """Keys that scores are made for: those of the slot that sees most, or all of a part."""
        return self.neighbours.most if self.sparse else self.size

    def hidden(self, slots: Tensor) -> Tensor:
        """Which places of its part each slot (S,) does not see, bool (S, P)."""
        if self.leading is not None:
            return torch.arange(self.size) >= self.leading[slots][:, None]
        return self._hidden[slots]

    @cached_property
    def _hidden(self) -> Tensor:
        assert self.mask is not None
        hidden = torch.ones(len(self.place), self.size, dtype=torch.bool)
        hidden[:, : self.text] = False
        hidden[:, self.place] = ~self.mask.dense()
        return hidden


class Neighbours:
    """Looks up the places that slots see, without the mask's square.

    Args:
        mask: who sees whom.
        layout: of one part, and one place behind it, where nothing is ever seen.

    Attributes:
        most: m, keys of the slot that sees most.
    """

    def __init__(self, mask: CompactMask, layout: CacheLayout) -> None:
        self.n, self.place, self.beyond = mask.grid.frame_tokens, layout.place, layout.size
        # The frames that each frame sees, and how, padded with a kind of frames that see nothing: -1 is its index, too.
        sees = mask.kinds >= 0
        self.frames = sees.long().argsort(dim=1, descending=True, stable=True)[:, : max(1, int(sees.sum(1).max()))]
        self.kinds = mask.kinds.gather(1, self.frames)
        spaces = nn.functional.pad(mask.spaces, (0, 0, 0, 0, 0, 1))
        kinds, queries, keys = spaces.nonzero(as_tuple=True)
        counts = spaces.sum(2)
        before = (counts.flatten().cumsum(0) - counts.flatten())[kinds * self.n + queries]
        # The places that a place sees in each kind, padded with -1, (C + 1, N, keys).
        self.keys = torch.full((*counts.shape, max(1, int(counts.max()))), -1)
        self.keys[kinds, queries, torch.arange(len(keys)) - before] = keys
        self.most = max(1, int(counts[mask.kinds].sum(1).max()))
        every = torch.arange(len(self.place))
        self.table = self._computed(every) if len(every) * self.most <= TABLE else None

    def of(self, slots: Tensor) -> Tensor:
        """Where the frame keys of slots (R,) stand, rising, then the place that is never seen; int64 (R, m)."""
        return self._computed(slots) if self.table is None else self.table[slots]

    def _computed(self, slots: Tensor) -> Tensor:
        frame, place = slots // self.n, slots % self.n
        keys = self.keys[self.kinds[frame], place[:, None]]
        slot = self.frames[frame][..., None] * self.n + keys
        places = torch.where(keys < 0, self.beyond, self.place[slot.clamp(min=0)]).flatten(1)
        return places.sort(-1).values[:, : self.most]


def _windows(mask: CompactMask, text: int) -> Tensor:
    """The window of a frame that each place is in, int64 (N,)."""
    near = mask.spaces.any(0)
    near = near | near.T  # in its own frame, a slot sees only those before
    windows = same_neighbours(near)
    apart = torch.equal(near, windows[:, None] == windows)
    # More text than frames would cost more than it gains.
    if not apart or (int(windows.max()) + 1) * text > mask.grid.tokens:
        return torch.zeros_like(windows)
    return windows


def _leading(mask: CompactMask, known: tuple[bool, ...], windows: Tensor, place: Tensor, text: int) -> Tensor | None:
    """How many places of its part each slot sees, int64 (L,); None where a generated one does not see the first."""
    n = mask.grid.frame_tokens
    spaces = nn.functional.pad(mask.spaces, (0, 0, 0, 0, 0, 1))
    counts = spaces.sum(2)
    inside = place.view(-1, n) - text
    # The last place that is seen in each kind, counted within a frame: places of a window rise in raster order.
    last = torch.where(spaces, torch.arange(n), -1).amax(2)
    seen = counts[mask.kinds].sum(1)
    end = torch.where(last[mask.kinds] >= 0, inside[torch.arange(len(known))[:, None], last[mask.kinds]] + 1, 0).amax(1)
    generated = ~torch.tensor(known)
    return (seen + text).flatten() if torch.equal(seen[generated], end[generated]) else None
