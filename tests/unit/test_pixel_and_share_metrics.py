"""Precision and recall of features, and PSNR and SSIM of copies."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from cogvid import UserError
from cogvid.metrics import Reconstruction, precision_recall


def draw(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def share_inside(samples: Tensor, manifold: Tensor, k: int) -> float:
    def reaches(centre: Tensor, sample: Tensor) -> bool:
        radius = sorted(float((centre - other).norm()) for other in manifold)[k]
        return float((centre - sample).norm()) <= radius

    return sum(any(reaches(centre, sample) for centre in manifold) for sample in samples) / len(samples)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_those_of_the_definition(k: int) -> None:
    real, generated = draw(23, 2, 0), 1.5 * draw(17, 2, 1) + 0.5
    expected = share_inside(generated, real, k), share_inside(real, generated, k)
    assert 0 < min(expected) < max(expected) < 1
    assert precision_recall(real, generated, k) == pytest.approx(expected)


def test_precision_and_recall_are_bounded_by_chunks_and_not_changed_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = draw(90, 4, 0), 1.2 * draw(70, 4, 1)
    expected = precision_recall(real, generated)
    monkeypatch.setattr("cogvid.metrics.manifold.CHUNK", 7)
    assert precision_recall(real.flip(0), generated.flip(0)) == expected


def test_one_mode_of_two_is_precise_and_recalls_half() -> None:
    real = torch.cat([draw(100, 2, 0), draw(100, 2, 1) + 100])
    precision, recall = precision_recall(real, draw(200, 2, 2))
    assert precision > 0.9
    assert 0.4 < recall <= 0.5


def test_samples_are_in_their_own_manifold_and_too_few_or_unusable_ones_in_none() -> None:
    real = draw(9, 3, 0)
    assert precision_recall(real, real) == (1, 1)
    assert all(map(math.isnan, precision_recall(real[:3], real)))
    real[2, 1] = math.nan
    assert all(map(math.isnan, precision_recall(real, draw(9, 3, 1))))


def videos(n: int, seed: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3 * 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth * 255).to(torch.uint8).unflatten(1, (3, 3))


def noisy(clips: Tensor, level: float) -> Tensor:
    noise = level * torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    return (clips + noise).clamp(0, 255).to(torch.uint8)


def fed(real: list[Tensor], copies: list[Tensor], in_turns: bool = False) -> Reconstruction:
    metric = Reconstruction()
    calls = [(clips, True) for clips in real] + [(clips, False) for clips in copies]
    if in_turns:
        calls = [call for turn in zip(calls[: len(real)], calls[len(real) :], strict=True) for call in turn]
    for clips, is_real in calls:
        metric.update(clips, [""] * len(clips), is_real)
    return metric


@pytest.mark.parametrize("in_turns", [False, True], ids=["set after set", "in turns"])
def test_psnr_and_ssim_are_those_of_torchmetrics(in_turns: bool) -> None:
    real = videos(6, 0)
    copies = torch.cat([noisy(clip[None], 4 + 3 * number) for number, clip in enumerate(real)])
    values = fed([*real.split(2)], [*copies.split(2)], in_turns).compute()
    psnr, ssim = PeakSignalNoiseRatio(data_range=255.0), StructuralSimilarityIndexMeasure(data_range=255.0)
    frames = [clips.flatten(0, 1).double() for clips in (copies, real)]
    assert float(values["psnr"]) == pytest.approx(float(psnr(*frames)), rel=1e-6)
    assert float(values["ssim"]) == pytest.approx(float(ssim(*frames)), rel=1e-6)
    assert values["psnr_se"] > 0
    assert values["ssim_se"] > 0


def test_worse_copies_have_lower_values_and_exact_ones_no_psnr() -> None:
    real = videos(4, 0)
    seen = [fed([real], [noisy(real, level)]).compute() for level in (2, 8, 32)]
    for name in ("psnr", "ssim"):
        values = [float(each[name]) for each in seen]
        assert values == sorted(values, reverse=True)
    exact = fed([real], [real.clone()]).compute()
    assert exact["psnr"].isnan()
    assert float(exact["ssim"]) == pytest.approx(1)


def test_copies_that_have_no_video_or_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match="2 copies have come without the videos"):
        fed([videos(1, 0)], [videos(3, 0)]).compute()
    with pytest.raises(UserError, match=r"a copy is \(3, 3, 20, 20\) where its video is \(3, 3, 16, 16\)"):
        fed([videos(1, 0)], [videos(1, 0, size=20)])
    with pytest.raises(UserError, match="at least 11x11 pixels, these have 8x8"):
        Reconstruction().update(videos(1, 0, size=8), [""], True)
    metric = fed([videos(1, 0)], [])
    metric.reset()
    assert all(value.isnan() for value in metric.compute().values())
