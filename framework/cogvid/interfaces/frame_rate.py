"""Frame-rate schedulers: which rates a clip is shown at in training, which ones generation goes through."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod

from cogvid.config.ranges import above
from cogvid.interfaces.component import Component

# What an option that is a rate may be, in frames per second: faster than any camera is a slip of the finger.
RATE = above(0, 1000)


def frames_at(duration: float, rate: float) -> int:
    """How many frames a clip yields at `rate` (1/s), its first and last time included.

    Args:
        duration: seconds; of a clip, those that a scheduler is told.
        rate: frames per second.
    """
    # A product of two floats may lie a little below the whole number that it means: 0.29 * 100 does.
    return math.floor(duration * rate * (1 + 4 * sys.float_info.epsilon)) + 1


class FrameRateScheduler(Component):
    """Chooses frame rates. Times inside a clip follow from the rate: start + k / rate."""

    @abstractmethod
    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The rates (1/s) at which training may show `frames` frames of this clip; empty leaves it out.

        A duration has one answer, whatever was asked before, and no clip is left out that is long enough for a rate
        which others are shown at: `cogvid.testing.frame_rate_conformance` holds a scheduler to it.

        Args:
            duration: seconds for which the clip has frames: from its first one's time to half a usual gap after
                its last one's, so that rounded times and rates (23.976) lose no frame. `frames_at` counts the
                frames of a rate in it.
            frames: how many frames one training sequence has.
        """

    def generation_rates(self, duration: float, frames: int, rounds: int) -> list[float]:
        """The rates (1/s) to generate a clip through, which decide the durations that the models are told.

        Args:
            duration: seconds from the clip's first frame to its last.
            frames: how many the clip must yield at the key frames' rate.
            rounds: how often interpolation doubles the frames.

        Returns:
            The key frames' rate and that of each doubling, `rounds + 1` numbers above 0; none where no training rate
            fits.
        """
        return [rate * 2**k for rate in self.training_rates(duration, frames)[:1] for k in range(rounds + 1)]
