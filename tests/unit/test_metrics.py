from __future__ import annotations

import contextlib
import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from cogvid import UserError
from cogvid.metrics import (
    FrechetVideoDistance,
    TorchScriptExtractor,
    VideoExtractor,
    VideoInceptionScore,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from cogvid.metrics.jackknife import shuffled
from cogvid_plugins.shapes.oracle import ShapesOracle

DOUBLE = torch.float64


def draw(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features (n, d)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(d), dtype=DOUBLE) / math.sqrt(d)
    return torch.randn(n, d, generator=generator, dtype=DOUBLE) @ (mixing + torch.eye(d, dtype=DOUBLE)) + shift


def with_moments(n: int, mean: Tensor, factor: Tensor, seed: int) -> Tensor:
    """Features whose mean is `mean` and whose unbiased covariance is `factor.T @ factor`, exactly."""
    white = draw(n, len(mean), seed)
    white = torch.linalg.qr(white - white.mean(0)).Q * math.sqrt(n - 1)
    return white @ factor + mean


class Identity(nn.Module):
    """What torchmetrics needs to take features for images."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_frechet_distance_of_commuting_gaussians_is_the_closed_form() -> None:
    one, two = torch.linspace(0.5, 3, 12, dtype=DOUBLE), torch.linspace(4, 1, 12, dtype=DOUBLE)
    rotation = torch.linalg.qr(draw(12, 12, seed=0)).Q
    shift = torch.linspace(-1, 2, 12, dtype=DOUBLE)
    real = with_moments(40, torch.zeros(12, dtype=DOUBLE), torch.diag(one) @ rotation, seed=1)
    generated = with_moments(60, shift, torch.diag(two) @ rotation, seed=2)
    expected = shift.square().sum() + (one - two).square().sum()
    assert frechet_distance(real, generated) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_distance_of_gaussians_in_the_plane_is_the_closed_form() -> None:
    # In two dimensions tr (A B)^1/2 = sqrt(tr A B + 2 sqrt(det A B)), whether or not A and B commute.
    one = torch.tensor([[2.0, 0.7], [0.0, 0.5]], dtype=DOUBLE)
    two = torch.tensor([[0.3, -1.1], [0.4, 1.5]], dtype=DOUBLE)
    a, b = one.T @ one, two.T @ two
    root = (torch.trace(a @ b) + 2 * torch.linalg.det(a @ b).sqrt()).sqrt()
    real = with_moments(9, torch.zeros(2, dtype=DOUBLE), one, seed=1)
    generated = with_moments(7, torch.ones(2, dtype=DOUBLE), two, seed=2)
    expected = 2 + a.trace() + b.trace() - 2 * root
    assert frechet_distance(real, generated) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 24), (64, 33, 16), (500, 450, 200)])
def test_frechet_distance_agrees_with_the_root_of_the_covariances_product(n: int, m: int, d: int) -> None:
    real, generated = draw(n, d, seed=0), draw(m, d, seed=1, shift=0.3) * 1.5
    seen = frechet_distance(real, generated)
    oracle = FrechetInceptionDistance(feature=Identity(d)).set_dtype(DOUBLE)
    oracle.update(real, real=True)
    oracle.update(generated, real=False)
    assert seen == pytest.approx(float(oracle.compute()), rel=1e-8)
    # The same root by its eigenvalues, and by scipy where it is installed.
    one, other = real.T.cov().numpy(), generated.T.cov().numpy()
    rest = float((real.mean(0) - generated.mean(0)).square().sum()) + one.trace() + other.trace()
    assert seen == pytest.approx(rest - 2 * np.sqrt(np.linalg.eigvals(one @ other).real).sum(), rel=1e-8)
    with contextlib.suppress(ImportError):
        from scipy.linalg import sqrtm

        assert seen == pytest.approx(rest - 2 * sqrtm(one @ other).real.trace(), rel=1e-8)


@pytest.mark.parametrize("n", [5, 16, 17, 400], ids=lambda n: f"n{n}-d16")
def test_frechet_distance_of_features_with_themselves_is_zero(n: int) -> None:
    features = 50 * draw(n, 16, seed=0) + 1000
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(100, 70), (6, 90), (4, 5)])
def test_frechet_distance_is_symmetric_with_any_number_of_samples(n: int, m: int) -> None:
    real, generated = draw(n, 16, seed=0), draw(m, 16, seed=1, shift=1)
    assert frechet_distance(real, generated) == pytest.approx(frechet_distance(generated, real), rel=1e-12)


def test_fewer_samples_than_features_give_the_distance_of_their_singular_covariances() -> None:
    # Both sets lie in one plane of 50 dimensions: rotating it into the first axes changes no distance.
    plane = torch.linalg.qr(draw(50, 2, seed=3)).Q
    real, generated = draw(9, 2, seed=0), draw(7, 2, seed=1, shift=1)
    expected = frechet_distance(real, generated)
    assert frechet_distance(real @ plane.T, generated @ plane.T) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e200], ids=str)
@pytest.mark.parametrize("d", [3, 400])
def test_a_feature_that_is_not_usable_gives_nan_and_no_crash(poison: float, d: int) -> None:
    features = draw(500, d, seed=0)
    poisoned = features.clone()
    poisoned[7, 1] = poison
    assert math.isnan(frechet_distance(features, poisoned))
    assert math.isnan(frechet_distance(poisoned, features))


def test_features_that_determine_no_covariance_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        frechet_distance(draw(1, 4, seed=0), draw(9, 4, seed=1))
    with pytest.raises(ValueError, match="differ in size"):
        frechet_distance(draw(9, 4, seed=0), draw(9, 5, seed=1))


def test_kernel_distance_is_the_mean_over_pairs() -> None:
    real, generated = draw(3, 2, seed=0), draw(4, 2, seed=1)

    def mean(pairs: list[tuple[Tensor, Tensor]]) -> float:
        return sum((float(x @ y) / 2 + 1) ** 3 for x, y in pairs) / len(pairs)

    def distinct(rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]

    between = mean([(x, y) for x in real for y in generated])
    expected = mean(distinct(real)) + mean(distinct(generated)) - 2 * between
    assert kernel_distance(real, generated) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [8, 64])
def test_kernel_distance_within_one_distribution_is_zero_on_average(n: int) -> None:
    values = torch.tensor([kernel_distance(draw(n, 6, seed), draw(n, 6, 1000 + seed)) for seed in range(200)])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))


def test_inception_score_is_the_one_computed_by_hand() -> None:
    # p(y|x) = (0.9, 0.1), (0.2, 0.8), so p(y) = (0.55, 0.45).
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=DOUBLE)
    first = 0.9 * math.log(0.9 / 0.55) + 0.1 * math.log(0.1 / 0.45)
    second = 0.2 * math.log(0.2 / 0.55) + 0.8 * math.log(0.8 / 0.45)
    expected = math.exp((first + second) / 2)
    assert inception_score(probabilities.log() + 5) == pytest.approx(expected, rel=1e-12)


def test_inception_score_spans_one_to_the_number_of_classes() -> None:
    assert inception_score(torch.ones(7, 5)) == pytest.approx(1, rel=1e-12)
    assert inception_score(1e4 * torch.eye(5)) == pytest.approx(5, rel=1e-12)


class Planes(VideoExtractor):
    """Reads the first pixels of a clip through a small real network."""

    name, feature_size, classes, min_frames, resize = "planes", 6, 4, 3, "none"

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        network = nn.Linear(3 * 4, 10)
        torch.save(network.state_dict(), folder / "planes.pt")
        super().__init__(network, folder / "planes.pt")

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        values = network(pixels[:, :, 0, :2, :2].flatten(1) / 64)
        return values[:, :6], values[:, 6:]


@pytest.fixture
def extractor(tmp_path: Path) -> Planes:
    return Planes(tmp_path)


def videos(n: int, seed: int, frames: int = 4, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, frames, 3, size, size), dtype=torch.uint8, generator=generator)


def feed(metric: FrechetVideoDistance | VideoInceptionScore, clips: Tensor, real: bool) -> None:
    for batch in clips.split(7):
        metric.update(batch, ["a clip"] * len(batch), real)


def test_fvd_is_the_frechet_distance_of_the_extracted_features(extractor: Planes) -> None:
    metric = FrechetVideoDistance(extractor)
    real, generated = videos(40, seed=0), videos(30, seed=1) // 2
    feed(metric, real, real=True)
    feed(metric, generated, real=False)
    values = metric.compute()
    features = extractor.read(real).features, extractor.read(generated).features
    assert float(values["fvd"]) == pytest.approx(frechet_distance(*features), rel=1e-12)
    assert float(values["kvd"]) == pytest.approx(kernel_distance(*features), rel=1e-12)
    assert float(values["kvd2"]) == pytest.approx(kernel_distance(*features, degree=2, offset=0), rel=1e-12)
    assert {value.dtype for value in values.values()} == {DOUBLE}


def test_inception_score_reads_only_generated_videos_in_parts_that_their_order_does_not_decide(
    extractor: Planes,
) -> None:
    metric = VideoInceptionScore(extractor, VideoInceptionScore.Config(splits=3))
    generated = videos(20, seed=1)
    feed(metric, videos(9, seed=0, frames=3), real=True)
    feed(metric, generated, real=False)
    scores = [inception_score(part) for part in shuffled(extractor.read(generated).logits.double()).split(7)]
    scores = torch.tensor(scores, dtype=DOUBLE)
    values = metric.compute()
    assert float(values["is"]) == pytest.approx(float(scores.mean()))
    assert float(values["is_std"]) == pytest.approx(float(scores.std(correction=0)))
    assert float(values["is_se"]) == pytest.approx(float(scores.std()) / math.sqrt(3))
    metric.reset()
    feed(metric, generated.flip(0), real=False)
    for name, value in metric.compute().items():
        assert float(value) == pytest.approx(float(values[name]), rel=1e-10)


def test_standard_error_and_debiased_value_hold_on_repeated_draws(extractor: Planes) -> None:
    runs = []
    for seed in range(50):
        metric = FrechetVideoDistance(extractor)
        metric.real_features.append(draw(64, 6, seed))
        metric.generated_features.append(draw(64, 6, 1000 + seed, shift=0.5))
        metric.update(videos(1, seed=0), ["a clip"], real=True)
        runs.append(metric.compute())
    fvd, debiased, error = (torch.stack([run[name] for run in runs]) for name in ("fvd", "fvd_debiased", "fvd_se"))
    truth = 6 * 0.5**2
    assert 0.75 < error.mean() / fvd.std() < 1.33
    assert fvd.mean() - truth > 3 * abs(debiased.mean() - truth)


@pytest.mark.parametrize("metric_class", [FrechetVideoDistance, VideoInceptionScore])
def test_too_few_videos_give_nan(metric_class: type, extractor: Planes) -> None:
    metric = metric_class(extractor)
    feed(metric, videos(9, seed=0), real=True)
    assert all(value.isnan() for value in metric.compute().values())


@pytest.mark.parametrize("metric_class", [FrechetVideoDistance, VideoInceptionScore])
def test_state_dict_and_parameters_leave_the_extractor_out(metric_class: type, extractor: Planes) -> None:
    metric = metric_class(extractor)
    metric.persistent(True)
    feed(metric, videos(9, seed=0), real=False)
    saved = {key.rpartition(".")[2] for key in metric.state_dict()}
    assert saved <= {"clip_shape", "real_features", "generated_features", "generated_logits"}
    assert not list(metric.parameters())


def test_casting_and_training_the_metric_leave_the_extractor_as_it_is(extractor: Planes) -> None:
    clips = videos(4, seed=0)
    expected = extractor.read(clips).features
    parent = nn.ModuleDict({"metric": FrechetVideoDistance(extractor)})
    parent.half().train()
    parent["metric"].set_dtype(torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feed(parent["metric"], clips, real=True)
    assert torch.equal(parent["metric"].real_features[0], expected.double())
    assert not any(parameter.requires_grad for parameter in extractor._network.parameters())


def test_reset_forgets_videos_and_their_shape(extractor: Planes) -> None:
    metric = FrechetVideoDistance(extractor)
    feed(metric, videos(9, seed=0), real=True)
    metric.reset()
    feed(metric, videos(5, seed=0, frames=7), real=False)
    assert metric.protocol["frames"] == 7
    assert (metric.protocol["real_samples"], metric.protocol["generated_samples"]) == (0, 5)


@pytest.mark.parametrize("others", [21, 0], ids=["both-fed", "one-empty"])
def test_merged_metrics_equal_one_that_saw_everything(others: int, extractor: Planes) -> None:
    whole, left = FrechetVideoDistance(extractor), FrechetVideoDistance(extractor)
    right = copy.deepcopy(left)
    for seed, real in ((0, True), (1, False)):
        clips = videos(50, seed)
        feed(whole, clips, real)
        feed(left, clips[others:], real)
        feed(right, clips[:others], real)
    left.merge_state(right)
    for name in ("fvd", "kvd"):
        assert float(left.compute()[name]) == pytest.approx(float(whole.compute()[name]), rel=1e-9)
    assert left.protocol == whole.protocol


def test_a_feature_that_is_nan_makes_every_value_nan(extractor: Planes) -> None:
    metric = FrechetVideoDistance(extractor)
    for seed, real in ((0, True), (1, False)):
        feed(metric, videos(20, seed), real)
    metric.generated_features[0][0, 0] = math.nan
    assert all(value.isnan() for value in metric.compute().values())


def test_videos_of_another_shape_are_refused(extractor: Planes) -> None:
    metric = FrechetVideoDistance(extractor)
    feed(metric, videos(2, seed=0), real=True)
    with pytest.raises(UserError, match="4 frames of 5x5 pixels and now gets 6 frames of 5x5"):
        feed(metric, videos(2, seed=0, frames=6), real=False)


NO_VIDEOS = {
    "floats": torch.zeros(2, 6, 3, 5, 5),
    "channels last": torch.zeros(2, 6, 5, 5, 3, dtype=torch.uint8),
    "channels first": torch.zeros(2, 3, 6, 5, 5, dtype=torch.uint8),
    "grey": torch.zeros(2, 6, 1, 5, 5, dtype=torch.uint8),
    "a single one": torch.zeros(6, 3, 5, 5, dtype=torch.uint8),
    "no tensor": [[0]],
}


@pytest.mark.parametrize("wrong", NO_VIDEOS.values(), ids=NO_VIDEOS)
@pytest.mark.parametrize("real", [True, False])
def test_what_is_no_video_of_bytes_in_three_channels_is_refused_everywhere(
    extractor: Planes, wrong: Any, real: bool
) -> None:
    count = len(wrong)
    for metric in (FrechetVideoDistance(extractor), VideoInceptionScore(extractor), ShapesOracle()):
        with pytest.raises(UserError, match="videos to score are"):
            metric.update(wrong, ["a small red circle moves left"] * count, real)
    with pytest.raises(UserError, match="videos to score are"):
        extractor.read(wrong)


class TinyI3d(nn.Module):
    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert rescale
        assert resize
        assert return_features
        return x.mean(dim=[1, 2, 3, 4])[:, None] * torch.ones(400)


class TinyC3d(nn.Module):
    def forward(self, x: Tensor):
        assert x.shape[2] == 16
        scores = x.mean(dim=[1, 2, 3, 4])[:, None] * torch.linspace(0, 1, 101)
        return scores.softmax(1)


def scripted(network: nn.Module, folder: Path) -> Path:
    path = folder / f"{type(network).__name__}.pt"
    torch.jit.script(network).save(path)
    return path


def test_i3d_file_is_called_as_published_and_its_values_are_features_and_logits(tmp_path: Path) -> None:
    i3d = TorchScriptExtractor(scripted(TinyI3d(), tmp_path), "i3d")
    clips = videos(3, seed=0, frames=10)
    means = clips.double().mean((1, 2, 3, 4))[:, None].expand(-1, 400)
    assert torch.allclose(i3d.read(clips).features.double(), means, rtol=1e-5)
    assert torch.equal(i3d.read(clips).features, i3d.read(clips).logits)
    assert len(i3d.sha256) == 64


def test_c3d_probabilities_of_the_first_16_frames_become_logits(tmp_path: Path) -> None:
    path = scripted(TinyC3d(), tmp_path)
    clips = videos(3, seed=0, frames=17)
    probabilities = TorchScriptExtractor(path, "c3d").read(clips).logits.softmax(1)
    assert torch.allclose(probabilities, TinyC3d()(clips[:, :16].transpose(1, 2).float()), atol=1e-6)


def test_key_frames_alone_are_refused_by_i3d(tmp_path: Path) -> None:
    i3d = TorchScriptExtractor(scripted(TinyI3d(), tmp_path), "i3d")
    with pytest.raises(UserError, match="at least 10 frames, and these have 5"):
        i3d.read(videos(2, seed=0, frames=5))


def test_a_file_that_is_missing_unreadable_or_of_another_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pt"):
        TorchScriptExtractor(tmp_path / "absent.pt", "i3d")
    (tmp_path / "text.pt").write_text("no network")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    for name in ("text.pt", "weights.pt"):
        with pytest.raises(UserError, match=name):
            TorchScriptExtractor(tmp_path / name, "i3d")
    swapped = TorchScriptExtractor(scripted(TinyC3d(), tmp_path), "i3d")
    with pytest.raises(UserError, match=r"TinyC3d\.pt does not run as the extractor i3d"):
        swapped.read(videos(2, seed=0, frames=16))
