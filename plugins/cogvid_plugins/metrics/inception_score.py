"""Inception score of videos with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.config.ranges import at_least, option
from cogvid.metrics import VideoInceptionScore, VideoMetric
from cogvid_plugins.metrics.extractor_choice import ExtractorConfig, open_extractor


class InceptionScore(VideoInceptionScore):
    """Inception score by the extractor that the options name."""

    @dataclass
    class Config(ExtractorConfig):
        splits: int = option(1, at_least(1))  # parts that are scored apart

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(open_extractor(config), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"inception_score": InceptionScore}
