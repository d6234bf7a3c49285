"""Frame-rate schedulers: which rates a clip is shown at in training, which ones generation goes through."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod

from cogvid.interfaces.component import Component


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

        Args:
            duration: seconds for which the clip has frames: from its first one's time to half a usual gap after
                its last one's, so that rounded times and rates (23.976) lose no frame. `frames_at` counts the
                frames of a rate in it.
            frames: how many frames one training sequence has.
        """

    def generation_rates(self, duration: float, frames: int, rounds: int) -> list[float]:
        """The rates to generate a clip of `duration` seconds through: key frames, then each round doubled.

        Returns `rounds + 1` rates, or none where no training rate fits.
        """
        return [rate * 2**k for rate in self.training_rates(duration, frames)[:1] for k in range(rounds + 1)]
