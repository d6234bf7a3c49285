"""Fréchet video distance with its bias and uncertainty, and its kernel sibling that has no bias.

Shapes: n samples, d features. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import ExtractorMetric, Reading, VideoExtractor

# The standard error is itself good to about 1 / sqrt(2 * groups).
JACKKNIFE_GROUPS = 16


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^1/2 S2 S1^1/2)^1/2` (Dowson and Landau, 1982; on videos
    Unterthiner et al., 2018), with unbiased covariances. The last trace is the sum of the singular values of
    `R1 R2^T` for any factors with `R^T R = S`. QR of the centred features gives such factors: no covariance
    is formed, no root of a singular matrix is taken, and fewer samples than features are no special case.

    Args:
        real: features (n, d), of any dtype.
        generated: features (m, d).

    Returns:
        The distance; NaN where a feature is NaN or infinite.

    Raises:
        ValueError: fewer than two samples on a side, or features of different size.
    """
    real, generated = _samples(real), _samples(generated)
    if real.shape[1] != generated.shape[1]:
        raise ValueError(f"features differ in size: {real.shape[1]} and {generated.shape[1]}")
    gap = (real.mean(0) - generated.mean(0)).square().sum()
    real, generated = _scaled_deviations(real), _scaled_deviations(generated)
    total_variance = real.square().sum() + generated.square().sum()
    if not torch.isfinite(gap + total_variance):
        # LAPACK may crash on NaN.
        return math.nan
    overlap = torch.linalg.svdvals(_triangle(real) @ _triangle(generated).T).sum()
    return max(float(gap + total_variance - 2 * overlap), 0.0)


def _samples(features: Tensor) -> Tensor:
    features = torch.as_tensor(features, dtype=torch.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Fréchet distance needs features (n, d) with n >= 2, got {tuple(features.shape)}")
    return features


def _scaled_deviations(features: Tensor) -> Tensor:
    """A factor F (n, d) of the covariance: F^T F = S."""
    return (features - features.mean(0)) / math.sqrt(len(features) - 1)


def _triangle(factor: Tensor) -> Tensor:
    """The factor (min(n, d), d) with the same product F^T F."""
    triangle: Tensor = torch.linalg.qr(factor, mode="r").R
    return triangle


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """The unbiased squared MMD under the kernel `(x.y / d + 1)^3` over all pairs (Binkowski et al., 2018).

    It is 0 on average, so negative half of the time, for two sample sets of one distribution of any size.

    Args:
        real: features (n, d), of any dtype.
        generated: features (m, d).

    Raises:
        ValueError: fewer than two samples on a side.
    """
    real, generated = _samples(real), _samples(generated)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(x: Tensor) -> Tensor:
        within = kernel(x, x)
        return (within.sum() - within.trace()) / (len(x) * (len(x) - 1))

    between = kernel(real, generated).mean()
    return float(mean_of_pairs(real) + mean_of_pairs(generated) - 2 * between)


class Jackknife(NamedTuple):
    """What leaving samples out tells about a statistic."""

    error: float  # standard error
    debiased: float  # the statistic without its bias of first order in 1/n


def jackknife(statistic: Callable[..., float], samples: Sequence[Tensor], groups: int) -> Jackknife:
    """The delete-a-group jackknife of a statistic of independent sample sets.

    Group g holds samples g, g + groups, ... of every set and is left out of all sets at once.

    Args:
        statistic: a smooth function of the sample sets.
        samples: tensors (n, ...), each in an order that says nothing about the samples.
        groups: how many times samples are left out; at most half of the smallest n.
    """
    kept = [[rows[torch.arange(len(rows)) % groups != g] for rows in samples] for g in range(groups)]
    values = torch.tensor([statistic(*subset) for subset in kept], dtype=torch.float64)
    error = float(values.std(correction=0)) * math.sqrt(groups - 1)
    return Jackknife(error, groups * statistic(*samples) - (groups - 1) * float(values.mean()))


class FrechetVideoDistance(ExtractorMetric):
    """Fréchet video distance between the real and the generated videos.

    `compute` gives

    * `fvd`: the value as published. It is too large by an amount that falls as 1/n, so it compares only
      between equal sample counts;
    * `fvd_debiased`: without that bias to first order, by the delete-a-group jackknife; may be below zero;
    * `fvd_se`: the standard error of both, how much another choice of samples would move them;
    * `kvd`: the kernel distance on the same features, without bias.

    A value is NaN with fewer than two videos on a side (those of the jackknife: four), or where a feature is
    not finite. Features of all videos are kept: 8 d bytes a video.

    Args:
        extractor: the network that reads the videos.
        config: options of the metric.
    """

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(extractor, config)
        self._add_rows_state("real_features", extractor.feature_size)
        self._add_rows_state("generated_features", extractor.feature_size)

    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read; the captions play no part."""
        self._append("real_features" if real else "generated_features", reading.features)

    def compute(self) -> dict[str, Tensor]:
        """`fvd`, `fvd_debiased`, `fvd_se` and `kvd`."""
        samples = self._rows("real_features"), self._rows("generated_features")
        fewest = min(len(rows) for rows in samples)
        values = dict.fromkeys(("fvd", "fvd_debiased", "fvd_se", "kvd"), math.nan)
        if fewest >= 2:
            values["fvd"] = frechet_distance(*samples)
            values["kvd"] = kernel_distance(*samples)
        if fewest >= 4:
            estimate = jackknife(frechet_distance, samples, min(JACKKNIFE_GROUPS, fewest // 2))
            values["fvd_debiased"], values["fvd_se"] = estimate.debiased, estimate.error
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        # Without more, the name is that of the distance between features of I3D.
        of = "" if self.extractor.name == "i3d" else f" ({self.extractor.name})"
        biased = "Distance between real and generated videos as published: too large by an amount that falls as 1/n."
        debiased = "The same without that amount, to first order; may be below zero."
        kernel = "Distance on the same features under a cubic kernel, without bias; may be below zero."
        return {
            "fvd_debiased": Meaning(f"FVD{of}, debiased", debiased, "lower", error="fvd_se", headline=True),
            "fvd": Meaning(f"FVD{of}", biased, "lower", error="fvd_se"),
            "kvd": Meaning(f"KVD{of}", kernel, "lower"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable, sample counts included."""
        return super().protocol | {
            "real_samples": len(self._rows("real_features")),
            "generated_samples": len(self._rows("generated_features")),
        }
