"""Fréchet distance of single frames: how videos look, without how they move.

Shapes: n videos, F frames, d features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import Reading, VideoExtractor
from cogvid.metrics.feature_sets import FeatureSets
from cogvid.metrics.frechet import frechet_values, too_few
from cogvid.metrics.jackknife import GROUPS, shuffled


class FrechetFrameDistance(FeatureSets):
    """Fréchet distance between all frames of the real and all frames of the generated videos.

    Each frame is a sample (as in the FID of Heusel et al., 2017, on frames); frames of one video are no independent
    samples, so the jackknife leaves out whole videos, and cautions count videos. `compute` gives `frame_fd`,
    `frame_fd_debiased` and `frame_fd_se`, as FVD does.
    """

    def _check_extractor(self, extractor: VideoExtractor) -> None:
        if not extractor.per_frame:
            raise UserError(
                f"The extractor {extractor.name} reads whole videos, and a distance of frames needs one that reads "
                "each frame for itself: describe an image network by a YAML file with `layout: BCHW`."
            )

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read; the captions play no part."""
        # Rows of one video stay beside each other, as they do when ranks are gathered.
        self._append("real_features" if real else "generated_features", reading.features.flatten(0, 1))

    def _videos(self, name: str) -> Tensor:
        """All rows of a state as (n, F, d)."""
        rows = self._rows(name)
        return rows.unflatten(0, (-1, int(self.clip_shape[0]))) if len(rows) else rows[:, None]

    def _sets(self) -> tuple[Tensor, Tensor]:
        return shuffled(self._videos("real_features")), shuffled(self._videos("generated_features"))

    def compute(self) -> dict[str, Tensor]:
        """`frame_fd`, `frame_fd_debiased` and `frame_fd_se`."""
        values = frechet_values(*self._sets(), "frame_fd")
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def cautions(self) -> dict[str, str]:
        """See `VideoMetric`."""
        caution = too_few(min(map(len, self._sets())), self.extractor.feature_size)
        return dict.fromkeys(("frame_fd_debiased", "frame_fd"), caution) if caution else {}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        of = self.extractor.of()
        debiased = "Distance between real and generated frames without its bias; blind to motion; may be below zero."
        biased = "Distance between real and generated frames: too large by an amount that falls as 1/n."
        return {
            "frame_fd_debiased": Meaning(f"Frame FD{of}, debiased", debiased, "lower", error="frame_fd_se"),
            "frame_fd": Meaning(f"Frame FD{of}", biased, "lower", error="frame_fd_se"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable; samples are videos."""
        counts = {f"{side}_samples": len(self._videos(f"{side}_features")) for side in ("real", "generated")}
        return super().protocol | counts | {"covariance_divisor": "n - 1", "jackknife_groups": GROUPS}
