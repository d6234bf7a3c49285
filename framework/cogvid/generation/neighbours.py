"""Which keys single slots see under a mask, as they stand in the cache; without the mask's square."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask


class Neighbours:
    """Looks up the keys of slots.

    Args:
        mask: who sees whom.
        order: the frames as they stand in the cache, int64 (F,).
    """

    def __init__(self, mask: CompactMask, order: Tensor) -> None:
        self.n = mask.grid.frame_tokens
        # One kind more, the last, for frames that see nothing of each other: -1 is its index, too.
        self._spaces = nn.functional.pad(mask.spaces, (0, 0, 0, 0, 0, 1))
        self._kinds = mask.kinds[:, order]
        self._in_frame = self._spaces.sum(2)
        self._starts = torch.arange(len(order)) * self.n

    def counts(self, slots: Tensor) -> Tensor:
        """How many keys slots (...) see, int64."""
        return self._in_frame[self._kinds[slots // self.n], slots[..., None] % self.n].sum(-1)

    def leading(self, slots: Tensor) -> Tensor:
        """Whether all keys that slots (...) see stand before all others in the cache, bool."""
        kinds, own = self._kinds[slots // self.n], slots[..., None] % self.n
        behind = torch.where(self._in_frame[kinds, own] > 0, self._starts + self._last[kinds, own] + 1, 0)
        return behind.amax(-1) == self.counts(slots)

    def places(self, slots: Tensor, most: int) -> Tensor:
        """Where the keys that slots (...) see stand, rising, then zeros; int64 (..., most)."""
        frames, kinds = (table[slots // self.n] for table in self._frames)
        keys = self._keys[kinds, slots[..., None] % self.n]
        beyond = len(self._starts) * self.n
        places = torch.where(keys < 0, beyond, self._starts[frames][..., None] + keys).flatten(-2).sort(-1).values
        places = nn.functional.pad(places[..., :most], (0, max(0, most - places.shape[-1])), value=beyond)
        return places.masked_fill_(places == beyond, 0)

    @cached_property
    def _last(self) -> Tensor:
        """The last place that a place sees in each kind, int64 (C + 1, N)."""
        return torch.where(self._spaces, torch.arange(self.n), -1).amax(2)

    @cached_property
    def _frames(self) -> tuple[Tensor, Tensor]:
        """The frames in the cache that each frame sees, and their kinds, padded with the last kind; int64 (F, m)."""
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
