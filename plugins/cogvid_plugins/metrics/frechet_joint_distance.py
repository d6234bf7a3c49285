"""Fréchet joint distance of videos and captions with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.metrics import FrechetJointDistance, VideoMetric
from cogvid_plugins.metrics.extractor_choice import ExtractorConfig, open_extractor


class JointDistance(FrechetJointDistance):
    """Fréchet joint distance by the extractor that the options name."""

    @dataclass
    class Config(ExtractorConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(open_extractor(config), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"frechet_joint_distance": JointDistance}
