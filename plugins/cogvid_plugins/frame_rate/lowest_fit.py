"""Show each training clip as a whole: the paper's multi-frame-rate training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cogvid
from cogvid.interfaces.frame_rate import frames_at


class LowestFit(cogvid.FrameRateScheduler):
    """The lowest rate of a list at which the clip still yields enough frames (CogVideo, section 3.1)."""

    @dataclass
    class Config:
        """`rates`: frames per second."""

        rates: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0])

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if not self.config.rates or not all(rate > 0 for rate in self.config.rates):
            raise cogvid.UserError(f"lowest_fit: rates must be a list of numbers above 0, got {self.config.rates}")

    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The lowest rate that fits; none for a clip too short for all of them."""
        fitting = [rate for rate in self.config.rates if frames_at(duration, rate) >= frames]
        return [min(fitting)] if fitting else []


@cogvid.hookimpl
def register_frame_rate_schedulers() -> dict[str, type]:
    """The scheduler `lowest_fit`."""
    return {"lowest_fit": LowestFit}
