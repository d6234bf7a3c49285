"""Which frames of a clip its training sequences have, and the tokens of these frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.interfaces.frame_rate import frames_at


@dataclass(frozen=True)
class TokenClips:
    """Tokenised clips, one after the other, each with the frames that training may want.

    Attributes:
        codes: int32 (all frames, height, width).
        numbers: int64 (all frames,), the number of each frame in its clip, ascending inside the clip.
        offsets: int64 (clips + 1,), where each clip's frames begin.
        captions: of the clips, one or more each.
        times: of the clips' frames.
    """

    codes: Tensor
    numbers: Tensor
    offsets: Tensor
    captions: Sequence[tuple[str, ...]]
    times: Sequence[ClipTimes]

    def __len__(self) -> int:
        return len(self.captions)

    def frames(self, clip: int, numbers: NDArray[np.int64]) -> Tensor:
        """Codes of the frames with these numbers (F,), which the clip has; int64 (F, height, width)."""
        first, last = int(self.offsets[clip]), int(self.offsets[clip + 1])
        own = self._numbers[first:last]
        places = np.searchsorted(own, numbers)
        assert np.array_equal(own.take(places, mode="clip"), numbers), (clip, numbers)
        return self.codes[torch.from_numpy(places + first)].long()

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return self.numbers.numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What `load` reads; captions and times stay with the data."""
        return {"codes": self.codes, "numbers": self.numbers, "offsets": self.offsets}

    @classmethod
    def load(cls, path: Path, captions: Sequence[tuple[str, ...]], times: Sequence[ClipTimes]) -> TokenClips:
        """Read a safetensors file of `tensors()`."""
        return cls(**load_file(path), captions=captions, times=times)


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
