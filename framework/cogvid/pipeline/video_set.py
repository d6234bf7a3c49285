"""A set of videos as it is scored, or compared with: read a batch at a time, however many there are.

Shapes: F frames, n clips.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from math import prod

import torch
from torch import Tensor

from cogvid.metrics.protocol import reference_hash

# What a record of a protocol, or a part of it, consists of.
Facts = Mapping[str, str | int | float]
# A set of fewer bytes is kept in memory once it is read: metrics without an extractor ask for it again and again.
HELD_BYTES = 64 << 20
# Distinct values that a record lists; of more it tells the range.
_LISTED = 8


@dataclass(frozen=True)
class Shown:
    """Which frames of which video a clip is.

    Attributes:
        id: of the clip in its data set or folder.
        content: SHA-256 of the video's bytes.
        numbers: of the frames in the video.
        seconds: when they are shown, since the video's first frame; empty where nobody knows.
    """

    id: str
    content: str
    numbers: tuple[int, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class VideoSet:
    """Videos of one shape.

    Attributes:
        keys: of each clip, the same for the same pixels: its content, and its frames.
        captions: of each clip; empty ones where there are none.
        shape: frames, height and width of a clip.
        pixels: the way its pixels came to be from the content that the keys name.
        facts: what a protocol says of this set alone: how many frames, at which rates, how long.
        read: gives clips uint8 (F, 3, height, width) by their places, one after the other.
        shown: of real videos, what each clip is.
    """

    keys: Sequence[str]
    captions: Sequence[str]
    shape: tuple[int, int, int]
    pixels: Facts
    facts: Facts
    read: Callable[[Sequence[int]], Generator[Tensor, None, None]]
    shown: Sequence[Shown] = ()
    _held: list[Tensor] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, places: Sequence[int], size: int) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Places and their clips uint8 (B, F, 3, height, width), at most `size` at once."""
        with closing(self.read(places)) as clips:
            for start in range(0, len(places), size):
                part = places[start : start + size]
                yield part, torch.stack([*islice(clips, len(part))])

    def again(self, size: int) -> Iterator[tuple[Sequence[int], Tensor]]:
        """All batches, for who reads the set more than once: a small set is kept in memory."""
        places = range(len(self))
        if self._held:
            yield from ((places[n * size : (n + 1) * size], batch) for n, batch in enumerate(self._held[0].split(size)))
            return
        keep = len(self) * 3 * prod(self.shape) <= HELD_BYTES
        seen = []
        for part, batch in self.batches(places, size):
            if keep:
                seen.append(batch)
            yield part, batch
        if seen:
            self._held.append(torch.cat(seen))

    @property
    def reference(self) -> str:
        """The hash of these real videos, as others are compared with them; whatever their order."""
        return reference_hash((f"{clip.id} {clip.content}", clip.seconds or clip.numbers) for clip in self.shown)


def tensor_set(videos: Tensor, content: str, captions: Sequence[str], facts: Facts) -> VideoSet:
    """Videos uint8 (n, F, 3, height, width) that lie in memory, or mapped into it.

    Args:
        videos: the clips.
        content: stands for all of their pixels.
        captions: of the clips.
        facts: see `VideoSet`.
    """
    frames, _, height, width = videos.shape[1:]
    keys = [f"{content} {place} {frames}" for place in range(len(videos))]
    shape, pixels = (frames, height, width), {"decode": "none, tensors"}
    return VideoSet(keys, captions, shape, pixels, facts, lambda places: (videos[place] for place in places))


def timing_facts(frames: int, rates: Sequence[float], seconds: Sequence[float]) -> dict[str, str | int | float]:
    """What a protocol says of the time of clips.

    Args:
        frames: of each clip.
        rates: of their frames (1/s); none where nobody knows.
        seconds: from first to last frame of each clip.
    """
    return {"frames": frames, "rates": several(rates), "seconds": several(seconds)}


def several(values: Sequence[float] | Sequence[str]) -> str:
    """The distinct ones, or their range and how many there are."""
    if any(isinstance(value, str) for value in values):
        return ", ".join(sorted({str(value) for value in values}))
    distinct = sorted({float(f"{value:.6g}") for value in values})
    if len(distinct) <= _LISTED:
        return ", ".join(f"{value:g}" for value in distinct) or "unknown"
    return f"{distinct[0]:g} to {distinct[-1]:g}, {len(distinct)} values"
