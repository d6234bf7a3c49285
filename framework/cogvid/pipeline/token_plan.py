"""Which frames of each clip are tokenised, and in which shard they lie: a function of the clips alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogvid.data.table import ClipTable, TimedClip, clip_times
from cogvid.pipeline.clips import drawn_frames
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.stage import as_plain

# Clips of a shard, at most, on average.
_CLIPS = 1024


@dataclass(frozen=True)
class Wanted:
    """What training may want of a clip.

    Attributes:
        numbers: int64 (frames,), ascending: the frames' numbers in the clip.
        rates: 1/s, that it is shown at.
        digest: of the numbers.
    """

    numbers: NDArray[np.int64]
    rates: list[float]
    digest: str


def wanted_by_timing(lab: Lab) -> Callable[[str], Wanted]:
    """What training may want of the clips with a timing, a value of the column `times`."""

    @lru_cache(maxsize=4096)
    def wanted(timing: str) -> Wanted:
        times = clip_times(timing)
        numbers = np.unique(np.concatenate([own.ravel() for own in drawn_frames(lab, times)]))
        rates = lab.scheduler.training_rates(times.reach, lab.config.video.frames)
        return Wanted(numbers, [float(rate) for rate in rates], hashlib.sha256(numbers.tobytes()).hexdigest())

    return wanted


class TokenPlan:
    """The shards of some clips.

    A clip's shard follows from its id and the number of shards, which is a power of two: clips that come or go move no
    others until there are twice or half as many.

    Args:
        lab: has the scheduler, the windows and the size of frames.
        clips: to tokenise.

    Attributes:
        shards: how many.
        heads: uint64 (clips,), the first eight bytes of each clip's key.
        shard: int32 (clips,), the shard of each clip.
        count: int32 (clips,), frames.
        first: int32 (clips,), the place of each clip's first frame in its shard.
    """

    def __init__(self, lab: Lab, clips: ClipTable) -> None:
        self.clips, self._wanted = clips, wanted_by_timing(lab)
        self._picture = json.dumps(as_plain(lab.frame_format), sort_keys=True)
        count = len(clips)
        self.shards = 1 << ((count - 1) // _CLIPS).bit_length()
        hashes, self.heads = np.empty(count, np.uint64), np.empty(count, np.uint64)
        self.count = np.empty(count, np.int32)
        for place, row in enumerate(clips.values("id", "sha256", "first", "times")):
            hashes[place] = key_head(hashlib.sha256(row["id"].encode()).digest())
            self.heads[place] = key_head(self._key(row))
            self.count[place] = len(self._wanted(row["times"]).numbers)
        self.shard = (hashes % np.uint64(self.shards)).astype(np.int32)
        self._order = np.lexsort((hashes, self.shard)).astype(np.int32)
        self._begins = np.searchsorted(self.shard[self._order], np.arange(self.shards + 1))
        before = np.cumsum(self.count[self._order]) - self.count[self._order]
        begins = before[self._begins.clip(max=count - 1)]
        self.first = np.empty(count, np.int32)
        self.first[self._order] = before - begins[self.shard[self._order]]

    def members(self, shard: int) -> NDArray[np.int32]:
        """The clips of a shard, in the order that they lie there in."""
        return self._order[self._begins[shard] : self._begins[shard + 1]]

    def frames(self, shards: Sequence[int]) -> int:
        """Frames of some shards."""
        return sum(int(self.count[self.members(shard)].sum(dtype=np.int64)) for shard in shards)

    def digest(self, shard: int) -> str:
        """What tells a shard from those of other clips, or of other frames of the same: SHA-256 in hexadecimal."""
        return hashlib.sha256(self.heads[self.members(shard)].astype("<u8").tobytes()).hexdigest()

    def shard_clips(self, shard: int) -> list[PlannedClip]:
        """All that is to know of the clips of a shard, in their order."""
        members = self.members(shard)
        clips = self.clips.pick(self.clips.rows[members])
        rows = clips.values("sha256", "state", "first", "times")
        return [
            PlannedClip(clips[number], row["state"], row["sha256"], self._wanted(row["times"]).numbers, self._key(row))
            for number, row in enumerate(rows)
        ]

    def rows(self) -> Iterator[dict[str, Any]]:
        """What the table says of each clip, in the clips' order, but for the errors."""
        rows = self.clips.values("id", "sha256", "first", "times")
        for place, row in enumerate(rows):
            yield {
                "id": row["id"],
                "row": int(self.clips.rows[place]),
                "key": self._key(row),
                "shard": int(self.shard[place]),
                "first": int(self.first[place]),
                "count": int(self.count[place]),
                "rates": self._wanted(row["times"]).rates,
            }

    def _key(self, row: dict[str, Any]) -> bytes:
        says = f"{row['sha256']} {row['first']} {self._wanted(row['times']).digest} {self._picture}"
        return hashlib.sha256(says.encode()).digest()


def key_head(key: bytes) -> int:
    """The first eight bytes."""
    return int.from_bytes(key[:8], "big")


@dataclass(frozen=True)
class PlannedClip:
    """A clip of a shard.

    Attributes:
        timed: the clip.
        state: of its file when the clip table was made; its size alone where the data stage made it.
        sha256: of its video, then.
        numbers: int64 (frames,), the frames to tokenise.
        key: of all that decides its codes, beside the frame tokenizer.
    """

    timed: TimedClip
    state: str
    sha256: str
    numbers: NDArray[np.int64]
    key: bytes
