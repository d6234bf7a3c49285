"""The one clock of a clip: when its frames are shown, exactly, and which of them stands at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class ClipTimes:
    """When the frames of a clip are shown.

    One rule says which frame stands at a time: each stands from half a usual gap before its own time on, until the
    next one does. So it does not matter that Matroska rounds times to milliseconds and that people write 23.976 for
    24000/1001, and no other place rounds a time or allows for rounding.

    Attributes:
        ticks: int64 (frames,), the time of each frame since the first one, in units; ascending.
        unit: seconds.
    """

    ticks: NDArray[np.int64]
    unit: Fraction

    @classmethod
    def of(cls, stamps: Sequence[int], unit: Fraction) -> ClipTimes:
        """The clock of frames in the order they are shown in.

        Args:
            stamps: one a frame, in any order: AVI has B-frames' times permuted, so the first frame gets the smallest.
            unit: of the stamps, in seconds.
        """
        ordered = sorted(stamps)
        since = [stamp - ordered[0] for stamp in ordered]
        step = math.gcd(*since) or 1
        return cls(np.array([ticks // step for ticks in since], dtype=np.int64), unit * step)

    def __len__(self) -> int:
        """Frames."""
        return len(self.ticks)

    def __getitem__(self, part: slice) -> ClipTimes:
        """The clock of some frames on end, which begins at the first of them."""
        ticks = self.ticks[part]
        return ClipTimes.of((ticks - ticks[0]).tolist(), self.unit)

    def between(self, start: float, end: float) -> tuple[int, int]:
        """The first frame of a span, and the first behind it; spans that meet share no frame.

        Args:
            start: seconds since the first frame; the frame whose time is nearest is in the span.
            end: the same, later; that frame is not.
        """
        nearest = 2 * self.ticks + self._gap  # in half units
        first, stop = (np.searchsorted(nearest, float(2 * Fraction(str(time)) / self.unit)) for time in (start, end))
        return int(first), int(stop)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The times as floats, for people and plots."""
        return self.ticks * np.float64(self.unit)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's time to the last one's."""
        return int(self.ticks[-1]) * self.unit

    @cached_property
    def reach(self) -> float:
        """Seconds, since the first frame, up to which there are frames for a sequence: half a usual gap after the last
        one's time."""
        return float(self.duration + Fraction(self._gap, 2) * self.unit)

    def frames(
        self, starts: Sequence[int], window: Sequence[float | Fraction], rate: float | Fraction
    ) -> NDArray[np.int64]:
        """The numbers of the frames at the times (start + offset) / rate.

        Args:
            starts: where sequences begin, in intervals of `rate`.
            window: the offsets of a sequence's frames from its start, in the same intervals.
            rate: 1/s.

        Returns:
            int64 (starts, window); times before the first frame and after the last give these.
        """
        parts, offsets, seconds = _grid(tuple(window), rate)
        places = np.add.outer(np.array([start * parts for start in starts], dtype=object), offsets)
        halves = 2 * seconds / self.unit
        times = (places * halves.numerator // halves.denominator).astype(np.int64)  # in half units, rounded down
        numbers: NDArray[np.int64] = np.searchsorted(2 * self.ticks - self._gap, times, side="right") - 1
        return numbers.clip(0)

    @cached_property
    def _gap(self) -> int:
        """The usual gap between frames, in units: the median, which a single odd frame does not move."""
        gaps = np.sort(np.diff(self.ticks))
        return int(gaps[(len(gaps) - 1) // 2]) if len(gaps) else 0

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: the unit, and the gaps as runs of (how many, of which length)."""
        runs = [[len(list(run)), gap] for gap, run in groupby(np.diff(self.ticks).tolist())]
        return {"unit": str(self.unit), "gaps": runs}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClipTimes:
        """Read what `to_json` gave."""
        counts, gaps = np.array(value["gaps"], dtype=np.int64).reshape(-1, 2).T
        return cls(np.concatenate([[0], np.repeat(gaps, counts).cumsum()]), Fraction(value["unit"]))


@lru_cache(maxsize=1000)
def _grid(window: tuple[float | Fraction, ...], rate: float | Fraction) -> tuple[int, NDArray[Any], Fraction]:
    """How many parts an interval of `rate` is cut into so that all offsets are whole, the offsets in parts (exact
    integers of any size), and the seconds of a part."""
    # Offsets are floats of simple fractions such as 1/3; a rate means the decimal number that was written.
    offsets = [Fraction(offset).limit_denominator(10_000) for offset in window]
    parts = math.lcm(*(offset.denominator for offset in offsets))
    whole = np.array([int(offset * parts) for offset in offsets], dtype=object)
    return parts, whole, 1 / (Fraction(str(rate)) * parts)
