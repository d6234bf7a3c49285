"""Fréchet distance of single frames with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.metrics import DescribedExtractor, FrechetFrameDistance, VideoMetric
from cogvid_plugins.metrics.extractor_choice import DescribedConfig


class FrameDistance(FrechetFrameDistance):
    """Fréchet distance of frames by the extractor that the options name, one that reads single frames."""

    @dataclass
    class Config(DescribedConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(DescribedExtractor(config.extractor), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"frechet_frame_distance": FrameDistance}
