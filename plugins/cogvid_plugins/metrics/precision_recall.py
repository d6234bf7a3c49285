"""Precision and recall of videos with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.metrics import PrecisionRecall, VideoMetric
from cogvid_plugins.metrics.extractor_choice import ExtractorConfig, open_extractor


class Coverage(PrecisionRecall):
    """Precision and recall by the extractor that the options name."""

    @dataclass
    class Config(ExtractorConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(open_extractor(config), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"precision_recall": Coverage}
