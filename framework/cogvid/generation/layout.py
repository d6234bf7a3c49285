"""Where the frame slots stand in a layer's cache, so that what a slot sees lies in one piece wherever it can."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cogvid.attention.compact import CompactMask
from cogvid.attention.partitions import same_neighbours


def frame_ranks(known: tuple[bool, ...]) -> Tensor:
    """The place of each frame in the cache: the known ones come first, int64 (F,)."""
    return (~torch.tensor(known)).long().argsort(stable=True).argsort()


@dataclass(frozen=True)
class CacheLayout:
    """The places of one layer's cache; L of them, one after the other.

    A cache is made of pieces, the text in front of each. Where a pattern divides a frame into parts that see nothing
    of each other, as windows do, each part of all frames is a piece; else everything is one.

    Attributes:
        text: T.
        size: L.
        texts: where each piece begins, with its text, int64 (pieces,).
        places: where each slot stands, int64 (F, N).
        slots: what stands where, as flat slots, int64 (L,); 0 where the text stands.
    """

    text: int
    size: int
    texts: Tensor
    places: Tensor
    slots: Tensor

    @classmethod
    def of(cls, mask: CompactMask, known: tuple[bool, ...], text: int) -> CacheLayout:
        """The layout for a mask, the known frames in front of the others in each piece."""
        frames, n = mask.grid.frames, mask.grid.frame_tokens
        parts = _parts(mask, text)
        sizes = parts.bincount()
        before = sizes.cumsum(0) - sizes
        by_part = parts.argsort(stable=True)
        within = by_part.argsort() - before[parts]
        texts = torch.arange(len(sizes)) * text + before * frames
        places = texts[parts] + text + frame_ranks(known)[:, None] * sizes[parts] + within
        size = len(sizes) * text + frames * n
        slots = torch.zeros(size, dtype=torch.long)
        slots[places.flatten()] = torch.arange(frames * n)
        return cls(text, size, texts, places, slots)


def _parts(mask: CompactMask, text: int) -> Tensor:
    """The part of a frame that each place is in, int64 (N,)."""
    near = mask.spaces.any(0)
    near = near | near.T  # in its own frame, a slot sees only those before
    parts = same_neighbours(near)
    apart = torch.equal(near, parts[:, None] == parts)
    # More text than frames would cost more than it gains.
    if not apart or (int(parts.max()) + 1) * text > mask.grid.tokens:
        return torch.zeros_like(parts)
    return parts
