"""Inception score of videos: whether clips are recognisable, and whether together they are varied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cogvid.config.ranges import at_least, option
from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import ExtractorMetric, Reading, VideoExtractor
from cogvid.metrics.jackknife import shuffled


def inception_score(logits: Tensor) -> float:
    """`exp(mean KL(p(y|x) || p(y)))`, between 1 and the number of classes (Salimans et al., 2016).

    Args:
        logits: class scores (n, classes), before the softmax, of any dtype.

    Returns:
        The score; NaN without samples or where a logit is NaN.
    """
    log_conditional = torch.log_softmax(torch.as_tensor(logits, dtype=torch.float64), dim=1)
    log_marginal = log_conditional.logsumexp(0) - math.log(max(len(log_conditional), 1))
    divergence = (log_conditional.exp() * (log_conditional - log_marginal)).sum(1)
    return float(divergence.mean().exp())


class VideoInceptionScore(ExtractorMetric):
    """Inception score of the generated videos; real videos are ignored.

    `compute` gives `is` and, with more than one split, `is_std` and `is_se`: mean, standard deviation (of the
    population, as papers print it) and standard error of the scores of `splits` parts of the videos. Which part a video
    is in follows from its class scores, not from the order of the videos. Fewer samples a part give a lower score, so
    values with different splits or sample counts do not compare. NaN with fewer videos than splits.

    Whether a network gives logits or probabilities its extractor says (`VideoExtractor.scores`).

    Args:
        extractor: the network that reads the videos.
        config: options of the metric.
    """

    reads_real = False

    @dataclass
    class Config:
        splits: int = option(1, at_least(1))  # parts that are scored apart

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(extractor, config)
        if not extractor.classes:
            raise UserError(f"The extractor {extractor.name} gives no class scores, and an inception score needs them.")
        self._add_rows_state("generated_logits", extractor.classes)

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read from generated videos; the captions play no part."""
        if not real:
            self._append("generated_logits", reading.logits)

    def compute(self) -> dict[str, Tensor]:
        """`is`, and with more than one split `is_std` and `is_se`."""
        splits = self.config.splits
        parts = shuffled(self._rows("generated_logits")).tensor_split(splits)
        scores = torch.tensor([inception_score(part) for part in parts], dtype=torch.float64)
        if splits == 1:
            return {"is": scores.mean()}
        return {"is": scores.mean(), "is_std": scores.std(correction=0), "is_se": scores.std() / math.sqrt(splits)}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        of = self.extractor.of(usual="c3d")
        text = "Whether each video is clearly of a class and all together of many; 1 to the number of classes."
        if self.config.splits == 1:
            return {"is": Meaning(f"IS{of}", text, "higher")}
        spread = f"Standard deviation of the inception scores of {self.config.splits} parts of the videos."
        return {
            "is": Meaning(f"IS{of}", text, "higher", error="is_se"),
            "is_std": Meaning(f"IS{of}, deviation", spread),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable, splits and sample count included."""
        return super().protocol | {
            "splits": self.config.splits,
            "scores": self.extractor.scores,
            "generated_samples": len(self._rows("generated_logits")),
        }
