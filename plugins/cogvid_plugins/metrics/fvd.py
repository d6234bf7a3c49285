"""Fréchet video distance with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.metrics import FrechetVideoDistance, VideoMetric
from cogvid_plugins.metrics.extractor_choice import ExtractorConfig, open_extractor


class Fvd(FrechetVideoDistance):
    """Fréchet video distance by the extractor that the options name."""

    @dataclass
    class Config(ExtractorConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(open_extractor(config), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"fvd": Fvd}
