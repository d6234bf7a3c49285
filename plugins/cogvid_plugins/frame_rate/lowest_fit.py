"""Show each training clip as a whole: the paper's multi-frame-rate training."""

from __future__ import annotations

from dataclasses import dataclass

import cogvid
from cogvid.config.ranges import each, option
from cogvid.interfaces.frame_rate import RATE, frames_at


class LowestFit(cogvid.FrameRateScheduler):
    """The lowest rate of a list at which the clip still yields enough frames (CogVideo, section 3.1)."""

    @dataclass
    class Config:
        """`rates`: frames per second."""

        rates: list[float] = option([0.5, 1.0, 2.0, 4.0], each(RATE))

    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The lowest rate that fits; none for a clip too short for all of them."""
        fitting = [rate for rate in self.config.rates if frames_at(duration, rate) >= frames]
        return [min(fitting)] if fitting else []


@cogvid.hookimpl
def register_frame_rate_schedulers() -> dict[str, type]:
    """The scheduler `lowest_fit`."""
    return {"lowest_fit": LowestFit}
