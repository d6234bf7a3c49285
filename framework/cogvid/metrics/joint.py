"""Fréchet joint distance: whether videos show their captions, by the joint distribution of both.

Shapes: n videos, d features, t values of a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import Reading, VideoExtractor
from cogvid.metrics.feature_sets import FeatureSets
from cogvid.metrics.frechet import frechet_values, too_few
from cogvid.metrics.jackknife import GROUPS, shuffled


class FrechetJointDistance(FeatureSets):
    """Fréchet distance between videos with their captions, real and generated (DeVries et al., 2019).

    A sample is the features of a video followed by the values of its caption times alpha. Alpha is the mean norm of
    the real videos' features over that of their captions' values, so that neither outweighs the other, as in the
    paper. Videos that are right each for itself, but not for their captions, such as a motion to the left where the
    caption says right, are at no distance in any metric of videos alone; here they are.

    `compute` gives `fjd`, `fjd_debiased` and `fjd_se`, as FVD does.

    Raises:
        UserError: the extractor cannot read captions, or reads each frame for itself.
    """

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(extractor, config)
        for side in ("real", "generated"):
            self._add_rows_state(f"{side}_texts", extractor.text_size)

    def _check_extractor(self, extractor: VideoExtractor) -> None:
        if extractor.per_frame:
            raise UserError(f"The extractor {extractor.name} reads single frames; the joint distance needs videos.")
        if not extractor.text_size:
            raise UserError(
                f"The extractor {extractor.name} cannot read captions, and the joint distance needs one that can, "
                "such as shapes3d, or a YAML file with a `text` part."
            )

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read, with the captions of the videos."""
        texts = self.extractor.texts(captions)
        assert texts is not None, "`text_size` says that captions can be read"
        super().add(reading, captions, real)
        self._append("real_texts" if real else "generated_texts", texts)

    def _sets(self) -> tuple[Tensor, Tensor]:
        real_texts = self._rows("real_texts")
        # Norms are summed in an order of their own, too.
        norms = [shuffled(rows.norm(dim=1)[:, None]).mean() for rows in (self._rows("real_features"), real_texts)]
        alpha = norms[0] / norms[1] if len(real_texts) and norms[1] > 0 else 1.0
        joint = (
            torch.cat([self._rows(f"{side}_features"), alpha * self._rows(f"{side}_texts")], dim=1)
            for side in ("real", "generated")
        )
        real, generated = map(shuffled, joint)
        return real, generated

    def compute(self) -> dict[str, Tensor]:
        """`fjd`, `fjd_debiased` and `fjd_se`."""
        values = frechet_values(*self._sets(), "fjd")
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def cautions(self) -> dict[str, str]:
        """See `VideoMetric`."""
        caution = too_few(self._fewest(), self.extractor.feature_size + self.extractor.text_size)
        return dict.fromkeys(("fjd_debiased", "fjd"), caution) if caution else {}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        of = self.extractor.of()
        debiased = "Distance between videos with their captions, real and generated, without its bias: sees what does "
        debiased += "not fit its caption."
        biased = "The same with its bias, which falls as 1/n."
        return {
            "fjd_debiased": Meaning(f"FJD{of}, debiased", debiased, "lower", error="fjd_se", headline=True),
            "fjd": Meaning(f"FJD{of}", biased, "lower", error="fjd_se"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable."""
        return super().protocol | {
            "captions": self.extractor.text_size,
            "caption_scale": "ratio of mean norms of the real set",
            "covariance_divisor": "n - 1",
            "jackknife_groups": GROUPS,
        }
