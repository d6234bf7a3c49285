"""Which keys single slots see under a mask, as they stand in the cache; without the mask's square."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.generation.layout import CacheLayout


class Neighbours:
    """Looks up the keys of slots.

    Args:
        mask: who sees whom.
        layout: of the cache.
    """

    def __init__(self, mask: CompactMask, layout: CacheLayout) -> None:
        self.n, self.layout = mask.grid.frame_tokens, layout
        # One kind more, the last, for frames that see nothing of each other: -1 is its index, too.
        self._spaces = nn.functional.pad(mask.spaces, (0, 0, 0, 0, 0, 1))
        self._kinds = mask.kinds
        self._in_frame = self._spaces.sum(2)

    def counts(self, slots: Tensor) -> Tensor:
        """How many keys slots (...) see, int64."""
        return self._in_frame[self._kinds[slots // self.n], slots[..., None] % self.n].sum(-1)

    def pieces(self, slots: Tensor) -> Tensor:
        """Where the piece begins whose first keys are those that slots (...) see, int64; -1 where there is none."""
        kinds, own = self._kinds[slots // self.n], slots[..., None] % self.n
        seen = self._in_frame[kinds, own]
        frames, count = torch.arange(len(self._kinds)), seen.sum(-1)
        first, last = (self.layout.places[frames, ends[kinds, own]] for ends in self._ends)
        first = torch.where(seen > 0, first, self.layout.size).amin(-1)
        last = torch.where(seen > 0, last, -1).amax(-1)
        begin = first - self.layout.text
        leading = (last - first + 1 == count) & torch.isin(begin, self.layout.texts)
        return torch.where(count > 0, torch.where(leading, begin, -1), 0)

    def places(self, slots: Tensor, most: int) -> Tensor:
        """Where the keys that slots (...) see stand, rising, then zeros; int64 (..., most)."""
        frames, kinds = (table[slots // self.n] for table in self._frames)
        keys, beyond = self._keys[kinds, slots[..., None] % self.n], self.layout.size
        places = torch.where(keys < 0, beyond, self.layout.places[frames[..., None], keys]).flatten(-2).sort(-1).values
        places = nn.functional.pad(places[..., :most], (0, max(0, most - places.shape[-1])), value=beyond)
        return places.masked_fill_(places == beyond, 0)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The keys that stand first and last of those that a place sees in each kind, int64 (C + 1, N)."""
        order = self.layout.places[0].argsort()  # the same in every frame
        rank = order.argsort()
        last = torch.where(self._spaces, rank, -1).amax(2)
        first = torch.where(self._spaces, rank, self.n).amin(2)
        return order[first.clamp(max=self.n - 1)], order[last.clamp(min=0)]

    @cached_property
    def _frames(self) -> tuple[Tensor, Tensor]:
        """The frames that each frame sees, and their kinds, padded with the last kind; int64 (F, m)."""
        sees = self._kinds >= 0
        frames = sees.long().argsort(dim=1, descending=True, stable=True)[:, : int(sees.sum(1).max())]
        return frames, self._kinds.gather(1, frames)

    @cached_property
    def _keys(self) -> Tensor:
        """The places that a place sees in each kind, padded with -1; int64 (C + 1, N, m)."""
        kinds, queries, keys = self._spaces.nonzero(as_tuple=True)
        counts = self._in_frame.flatten()
        before = (counts.cumsum(0) - counts)[kinds * self.n + queries]
        table = torch.full((*self._in_frame.shape, int(counts.max())), -1)
        table[kinds, queries, torch.arange(len(keys)) - before] = keys
        return table
