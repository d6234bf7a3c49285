"""What metrics share that compare the features of two sets of videos: both sets, kept in an order of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cogvid.errors import UserError
from cogvid.metrics.extractors import ExtractorMetric, Reading, VideoExtractor
from cogvid.metrics.jackknife import shuffled


class FeatureSets(ExtractorMetric):
    """A metric of the features of the real and of the scored videos, float64, 8 d bytes a video on each side.

    Args:
        extractor: the network that reads the videos.
        config: options of the metric.

    Raises:
        UserError: the extractor does not read what the metric needs.
    """

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(extractor, config)
        if not extractor.feature_size:
            raise UserError(f"The extractor {extractor.name} gives no features, and {type(self).__name__} needs some.")
        self._check_extractor(extractor)
        size = self._row_size(extractor)
        self._add_rows_state("real_features", size)
        self._add_rows_state("generated_features", size)

    def _check_extractor(self, extractor: VideoExtractor) -> None:
        """Refuse an extractor that does not read what the metric needs."""

    def _row_size(self, extractor: VideoExtractor) -> int:
        return extractor.feature_size

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read; the captions play no part."""
        self._append("real_features" if real else "generated_features", reading.features)

    def _sets(self) -> tuple[Tensor, Tensor]:
        """Real and generated features (n, d), each in an order that follows from the features alone."""
        return shuffled(self._rows("real_features")), shuffled(self._rows("generated_features"))

    def _fewest(self) -> int:
        return min(len(self._rows("real_features")), len(self._rows("generated_features")))

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable, sample counts included."""
        return super().protocol | {
            "real_samples": len(self._rows("real_features")),
            "generated_samples": len(self._rows("generated_features")),
        }
