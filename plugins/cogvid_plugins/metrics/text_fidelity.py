"""Text fidelity by a network that reads frames and captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import hookimpl
from cogvid.metrics import DescribedExtractor, TextFidelity, VideoMetric
from cogvid_plugins.metrics.extractor_choice import DescribedConfig


class Fidelity(TextFidelity):
    """Text fidelity by the extractor that the options name, one that reads single frames and captions."""

    @dataclass
    class Config(DescribedConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(DescribedExtractor(config.extractor), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"text_fidelity": Fidelity}
