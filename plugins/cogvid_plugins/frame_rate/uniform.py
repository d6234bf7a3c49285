"""Train on every frame rate that a clip is long enough for."""

from __future__ import annotations

from dataclasses import dataclass

import cogvid
from cogvid.config.ranges import each, option
from cogvid.interfaces.frame_rate import RATE, frames_at


class Uniform(cogvid.FrameRateScheduler):
    """All rates of a list at which the clip still yields enough frames."""

    @dataclass
    class Config:
        """`rates`: frames per second."""

        rates: list[float] = option([0.5, 1.0, 2.0, 4.0], each(RATE))

    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The rates that fit, lowest first."""
        return [rate for rate in sorted(self.config.rates) if frames_at(duration, rate) >= frames]


@cogvid.hookimpl
def register_frame_rate_schedulers() -> dict[str, type]:
    """The scheduler `uniform`."""
    return {"uniform": Uniform}
