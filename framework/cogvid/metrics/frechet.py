"""Fréchet distance between two sets of features, and the Fréchet video distance with its bias and uncertainty.

Shapes: n samples, d features, F frames, G groups. Everything is float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning
from cogvid.metrics.extractors import VideoExtractor
from cogvid.metrics.feature_sets import FeatureSets
from cogvid.metrics.jackknife import GROUPS, Jackknife, LeftOut, group_count, group_of, jackknife
from cogvid.metrics.kernel import CUBIC, JEDI, kernel_left_out

# Below this many samples for each feature a fitted covariance, and with it the distance, is mostly noise.
SAMPLES_PER_FEATURE = 10


class _Gaussian(NamedTuple):
    """A Gaussian fitted to samples: its mean (d,) and a factor R (min(n, d), d) of its covariance, R^T R."""

    mean: Tensor
    factor: Tensor


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
    return _distance(_fit(real), _fit(generated))


def frechet_left_out(real: Tensor, generated: Tensor) -> LeftOut:
    """The Fréchet distance with groups of samples left out, for the jackknife.

    Args:
        real: features (n, d), n at least 4; or (n, F, d), the frames of one sample staying together.
        generated: features (m, d) or (m, F, d).
    """
    groups = group_count(min(len(real), len(generated)))

    def fits(samples: Tensor) -> tuple[_Gaussian, list[_Gaussian]]:
        group, rows = group_of(len(samples), groups), samples.double()
        without = [_fit(rows[group != g].flatten(0, -2)) for g in range(groups)]
        return _fit(rows.flatten(0, -2)), without

    (whole_real, without_real), (whole_generated, without_generated) = fits(real), fits(generated)
    return LeftOut(
        _distance(whole_real, whole_generated),
        _tensor([_distance(part, whole_generated) for part in without_real]),
        _tensor([_distance(whole_real, part) for part in without_generated]),
        _tensor([_distance(*parts) for parts in zip(without_real, without_generated, strict=True)]),
    )


def frechet_values(real: Tensor, generated: Tensor, name: str) -> dict[str, float]:
    """`NAME`, `NAME_debiased` and `NAME_se` of samples in shuffled order, as in `frechet_left_out`.

    NaN with fewer than two samples on a side (those of the jackknife: four), or where a feature is not finite.
    """
    fewest = min(len(real), len(generated))
    value, estimate = math.nan, Jackknife(math.nan, math.nan)
    if fewest >= 4:
        left_out = frechet_left_out(real, generated)
        value, estimate = left_out.whole, jackknife(left_out)
    elif fewest >= 2:
        value = frechet_distance(real.flatten(0, -2), generated.flatten(0, -2))
    return {name: value, f"{name}_debiased": estimate.debiased, f"{name}_se": estimate.error}


def too_few(samples: int, features: int) -> str:
    """The caution of a Fréchet distance of few samples, a sentence; empty where they are enough."""
    needed = SAMPLES_PER_FEATURE * features
    if samples >= needed:
        return ""
    return (
        f"{samples} samples are few for {features} features: below {needed}, {SAMPLES_PER_FEATURE} for each feature, "
        "a Fréchet distance is mostly its own bias and noise."
    )


def _samples(features: Tensor) -> Tensor:
    features = torch.as_tensor(features, dtype=torch.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"a Fréchet distance needs features (n, d) with n >= 2, got {tuple(features.shape)}")
    return features


def _fit(features: Tensor) -> _Gaussian:
    mean = features.mean(0)
    deviations = (features - mean) / math.sqrt(len(features) - 1)
    if not torch.isfinite(deviations.square().sum()):
        # LAPACK may crash on NaN.
        return _Gaussian(mean, torch.full_like(deviations[:1], math.nan))
    return _Gaussian(mean, torch.linalg.qr(deviations, mode="r").R)


def _distance(one: _Gaussian, other: _Gaussian) -> float:
    gap = (one.mean - other.mean).square().sum()
    total_variance = one.factor.square().sum() + other.factor.square().sum()
    if not torch.isfinite(gap + total_variance):
        return math.nan
    overlap = torch.linalg.svdvals(one.factor @ other.factor.T).sum()
    return max(float(gap + total_variance - 2 * overlap), 0.0)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class FrechetVideoDistance(FeatureSets):
    """Fréchet video distance between the real and the generated videos.

    `compute` gives

    * `fvd`: the value as published. It is too large by an amount that falls as 1/n, so it compares only
      between equal sample counts;
    * `fvd_debiased`: without that bias to first order, by the delete-a-group jackknife; may be below zero;
    * `fvd_se`: the standard error of both, how much another choice of samples would move them. The true distance of
      Gaussians lay within `fvd_debiased` plus or minus `fvd_se` times the 97.5% quantile of Student's t with 15
      degrees of freedom in 91 to 97 of 100 draws, for d of 8 to 64, n of 4 d to 64 d, and equal, near and far
      distributions. With n = d it was 85 of 100 where the distributions were equal: what bias is left is too large;
    * `kvd` and `kvd2`: the cubic kernel distance and JEDi's of degree 2 on the same features, without bias, and their
      standard errors `kvd_se` and `kvd2_se`.

    All are the same from any order of the videos, any batches and any number of processes. A value is NaN with fewer
    than two videos on a side (those of the jackknife, and of kernels: four), or where a feature is not finite.
    Features of all videos are kept: 8 d bytes a video.
    """

    def _check_extractor(self, extractor: VideoExtractor) -> None:
        if extractor.per_frame:
            raise UserError(
                f"The extractor {extractor.name} reads each frame for itself, and FVD needs one that reads videos. "
                "Score it by frechet_frame_distance, or choose another extractor."
            )

    def compute(self) -> dict[str, Tensor]:
        """`fvd`, `fvd_debiased`, `fvd_se`, `kvd`, `kvd_se`, `kvd2` and `kvd2_se`."""
        real, generated = self._sets()
        values = frechet_values(real, generated, "fvd")
        for name, (degree, offset) in (("kvd", CUBIC), ("kvd2", JEDI)):
            values |= {name: math.nan, f"{name}_se": math.nan}
            if self._fewest() >= 4:
                left_out = kernel_left_out(real, generated, degree, offset)
                values |= {name: left_out.whole, f"{name}_se": jackknife(left_out).error}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def cautions(self) -> dict[str, str]:
        """See `VideoMetric`; kernel distances have no bias, and their errors say how much they are worth."""
        caution = too_few(self._fewest(), self.extractor.feature_size)
        return dict.fromkeys(("fvd_debiased", "fvd"), caution) if caution else {}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        of = self.extractor.of(usual="i3d")
        biased = "Distance between real and generated videos as published: too large by an amount that falls as 1/n."
        debiased = "Distance between real and generated videos without its bias, to first order; may be below zero."
        kernel = "Distance on the same features under a cubic kernel, without bias; may be below zero."
        jedi = "Distance on the same features under JEDi's kernel of degree 2, without bias; may be below zero."
        return {
            "fvd_debiased": Meaning(f"FVD{of}, debiased", debiased, "lower", error="fvd_se", headline=True),
            "fvd": Meaning(f"FVD{of}", biased, "lower", error="fvd_se"),
            "kvd": Meaning(f"KVD{of}", kernel, "lower", error="kvd_se", headline=True),
            "kvd2": Meaning(f"KVD degree 2{of}", jedi, "lower", error="kvd2_se"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable, sample counts included."""
        return super().protocol | {"covariance_divisor": "n - 1", "jackknife_groups": GROUPS}
