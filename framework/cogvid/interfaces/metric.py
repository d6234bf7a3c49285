"""What an evaluation metric is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torchmetrics import Metric


class VideoMetric(Metric):
    """A torchmetrics `Metric` over videos, component of kind `metric`.

    The evaluation resets the metric for each set of videos it scores, feeds the set and the real videos it is
    compared with, then computes.
    """

    full_state_update = False
    higher_is_better: bool | None = None
    # Whether the key frames alone can be scored, too; they are fewer than the real clips that a set is compared with.
    key_frames: bool = False

    @dataclass
    class Config:
        """No options."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        """Add videos.

        Args:
            videos: uint8 (B, F, 3, height, width).
            captions: B texts.
            real: True for the real videos that the set is compared with, False for the set that is scored.
        """

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Values by name: scalar float64 tensors, NaN where the videos seen do not determine one."""

    @property
    @abstractmethod
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable (extractor and its SHA-256, resize, splits, ...)."""
