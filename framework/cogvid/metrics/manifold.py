"""Precision and recall of features: whether generated videos lie among the real ones, and cover them.

Shapes: n samples, d features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import VideoExtractor
from cogvid.metrics.feature_sets import FeatureSets

NEIGHBOUR = 3
# Rows of a matrix of distances that are held at once: 8 CHUNK n bytes.
CHUNK = 256


def precision_recall(real: Tensor, generated: Tensor, k: int = NEIGHBOUR) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019).

    A set's manifold is the union of balls around its samples, each reaching to the sample's k-th nearest neighbour in
    the set. Precision is the share of generated samples in the real manifold, recall that of real ones in the
    generated manifold.

    Args:
        real: features (n, d), of any dtype.
        generated: features (m, d).
        k: which neighbour a ball reaches to.

    Returns:
        Precision and recall; NaN with `k` samples or fewer on a side, or where a feature is not finite.
    """
    real, generated = (torch.as_tensor(rows, dtype=torch.float64) for rows in (real, generated))
    finite = bool(torch.isfinite(real).all() and torch.isfinite(generated).all())
    if min(len(real), len(generated)) <= k or not finite:
        return math.nan, math.nan
    return _share_inside(generated, real, k), _share_inside(real, generated, k)


def _distances(one: Tensor, other: Tensor) -> Tensor:
    # By differences: a sample is at distance 0 from itself exactly.
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _share_inside(samples: Tensor, manifold: Tensor, k: int) -> float:
    inside = torch.zeros(len(samples), dtype=torch.bool, device=samples.device)
    for centres in manifold.split(CHUNK):
        # The nearest is the sample itself.
        radii = _distances(centres, manifold).kthvalue(k + 1, dim=1).values
        inside |= (_distances(centres, samples) <= radii[:, None]).any(0)
    return float(inside.double().mean())


class PrecisionRecall(FeatureSets):
    """Precision and recall of the generated videos' features, `precision` and `recall`, shares from 0 to 1."""

    def _check_extractor(self, extractor: VideoExtractor) -> None:
        if extractor.per_frame:
            raise UserError(f"The extractor {extractor.name} reads single frames; precision and recall need videos.")

    def compute(self) -> dict[str, Tensor]:
        """`precision` and `recall`."""
        values = precision_recall(self._rows("real_features"), self._rows("generated_features"))
        return {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in zip(("precision", "recall"), values, strict=True)
        }

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        of = self.extractor.of()
        precise = "Generated videos that lie among the real ones: whether each of them could be real."
        covered = "Real videos that lie among the generated ones: whether all kinds of videos are made."
        return {
            "precision": Meaning(f"Precision{of}", precise, "higher", "share"),
            "recall": Meaning(f"Recall{of}", covered, "higher", "share"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable."""
        return super().protocol | {"neighbour": NEIGHBOUR}
