"""Train on every frame rate that a clip is long enough for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cogvid
from cogvid.interfaces.frame_rate import frames_at


class Uniform(cogvid.FrameRateScheduler):
    """All rates of a list at which the clip still yields enough frames."""

    @dataclass
    class Config:
        """`rates`: frames per second."""

        rates: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 4.0])

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if not self.config.rates or not all(rate > 0 for rate in self.config.rates):
            raise cogvid.UserError(f"uniform: rates must be a list of numbers above 0, got {self.config.rates}")

    def training_rates(self, duration: float, frames: int) -> list[float]:
        """The rates that fit, lowest first."""
        return [rate for rate in sorted(self.config.rates) if frames_at(duration, rate) >= frames]


@cogvid.hookimpl
def register_frame_rate_schedulers() -> dict[str, type]:
    """The scheduler `uniform`."""
    return {"uniform": Uniform}
