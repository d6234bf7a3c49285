"""Train at one frame rate: the baseline of multi-frame-rate training."""

from __future__ import annotations

from dataclasses import dataclass

import cogvid
from cogvid.config.ranges import option
from cogvid.interfaces.frame_rate import RATE, frames_at


class Fixed(cogvid.FrameRateScheduler):
    """One rate for all clips; a clip too short for it is left out."""

    @dataclass
    class Config:
        """`rate`: frames per second."""

        rate: float = option(4.0, RATE)

    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The rate, if it fits."""
        return [self.config.rate] if frames_at(duration, self.config.rate) >= frames else []


@cogvid.hookimpl
def register_frame_rate_schedulers() -> dict[str, type]:
    """The scheduler `fixed`."""
    return {"fixed": Fixed}
