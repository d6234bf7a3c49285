"""Which frames of a clip its training sequences have, and the tokens of these frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cogvid.data.clip_times import ClipTimes
from cogvid.interfaces.frame_rate import frames_at

# Times of a sequence's frames, in intervals between key frames: 0, 1, 2, ... for the key frames themselves.
FrameTimes = tuple[float, ...]


def sequences(times: ClipTimes, rate: float, window: FrameTimes, frames: int) -> NDArray[np.int64]:
    """The numbers of the frames of all sequences that training may draw from a clip with one window.

    Args:
        times: of the clip's frames.
        rate: of the key frames (1/s); one that fits the clip.
        window: which frames of a clip a sequence has.
        frames: key frames of a clip.

    Returns:
        int64 (starts, window).
    """
    return times.frames(range(starts(times, rate, frames)), window, rate)


def starts(times: ClipTimes, rate: float, frames: int) -> int:
    """How many sequences of so many key frames training may draw from a clip with one window, see `sequences`."""
    return frames_at(times.reach, rate) - frames + 1
