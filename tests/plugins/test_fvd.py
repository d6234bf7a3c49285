from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open
from torch import Tensor

from cogvid import UserError, create_component
from cogvid.metrics import VideoMetric, frechet_distance, kernel_distance
from cogvid.metrics.frechet import frechet_left_out
from cogvid.metrics.jackknife import jackknife
from cogvid_plugins.metrics.fvd import Fvd, register_metrics
from cogvid_plugins.metrics.inception_score import InceptionScore
from cogvid_plugins.shapes.extractor import WEIGHTS, Shapes3dExtractor
from cogvid_plugins.shapes.training import Views, accuracy
from cogvid_plugins.shapes.world import ALL_ATTRIBUTES, MOTIONS, SHAPES, canvas, sample_scene

FRAMES = 17
CLIPS = 128


def clips(seed: int, count: int = CLIPS, frames: int = FRAMES) -> Views:
    return Views.random(np.random.default_rng(seed), count, np.linspace(0, 1, frames))


@pytest.fixture(scope="module")
def real() -> Tensor:
    return clips(seed=1).videos()


@pytest.fixture(scope="module")
def generated() -> Tensor:
    return clips(seed=2).videos()


@pytest.fixture(scope="module")
def extractor() -> Shapes3dExtractor:
    return Shapes3dExtractor()


@pytest.fixture(scope="module")
def real_features(extractor: Shapes3dExtractor, real: Tensor) -> Tensor:
    return features(extractor, real)


@pytest.fixture(scope="module")
def generated_features(extractor: Shapes3dExtractor, generated: Tensor) -> Tensor:
    return features(extractor, generated)


def features(extractor: Shapes3dExtractor, videos: Tensor) -> Tensor:
    return torch.cat([extractor.read(batch).features for batch in videos.split(16)])


def values(metric: VideoMetric, real: Tensor, generated: Tensor) -> dict[str, float]:
    metric.reset()
    for videos, is_real in ((real, True), (generated, False)):
        for batch in videos.split(16):
            metric.update(batch, [""] * len(batch), is_real)
    return {name: float(value) for name, value in metric.compute().items()}


def noisy(videos: Tensor, level: float) -> Tensor:
    noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    return (videos + level * noise).clamp(0, 255).to(torch.uint8)


def shuffled(videos: Tensor, level: float) -> Tensor:
    """A share of the clips with their frames in random order."""
    generator = torch.Generator().manual_seed(0)
    result = videos.clone()
    for clip in result[: round(level * len(result))]:
        clip[:] = clip[torch.randperm(len(clip), generator=generator)]
    return result


def frozen(videos: Tensor, level: float) -> Tensor:
    """A share of the clips that stay at their first frame."""
    result = videos.clone()
    stopped = result[: round(level * len(result))]
    stopped[:] = stopped[:, :1].clone()
    return result


@pytest.mark.parametrize(
    ("damage", "levels"),
    [(noisy, (16, 32)), (shuffled, (0.25, 0.5, 1)), (frozen, (0.25, 0.5, 1))],
    ids=["noise", "temporal-order", "frozen-frames"],
)
def test_fvd_and_kvd_grow_with_damage(
    damage: Callable[[Tensor, float], Tensor],
    levels: Sequence[float],
    generated: Tensor,
    real_features: Tensor,
    generated_features: Tensor,
    extractor: Shapes3dExtractor,
) -> None:
    damaged = [features(extractor, damage(generated, level)) for level in levels]
    for distance in (frechet_distance, kernel_distance):
        seen = [distance(real_features, other) for other in (generated_features, *damaged)]
        assert seen == sorted(seen)
    undamaged = jackknife(frechet_left_out(real_features, generated_features))
    least = frechet_distance(real_features, generated_features) + 5 * undamaged.error
    assert frechet_distance(real_features, damaged[-1]) > least


def test_fvd_of_videos_with_themselves_in_another_order_is_zero(real: Tensor) -> None:
    seen = values(Fvd(), real, real.flip(0))
    assert seen["fvd"] == pytest.approx(0, abs=1e-6)


def test_fvd_is_symmetric(real: Tensor, generated: Tensor) -> None:
    there, back = values(Fvd(), real, generated), values(Fvd(), generated, real)
    for name in ("fvd", "fvd_debiased", "fvd_se", "kvd"):
        assert there[name] == pytest.approx(back[name], rel=1e-6)


def test_debiased_fvd_between_two_draws_of_one_world_is_within_its_error(real: Tensor, generated: Tensor) -> None:
    seen = values(Fvd(), real, generated)
    assert abs(seen["fvd_debiased"]) < 3 * seen["fvd_se"]


@pytest.mark.parametrize("frames", [5, 17])
def test_shipped_network_names_the_attributes_of_unseen_scenes(frames: int) -> None:
    scores = accuracy(Shapes3dExtractor()._network, seed=99, frames=frames, count=256)
    assert min(scores.values()) > 0.97


def test_features_of_unseen_scenes_use_many_directions(real_features: Tensor) -> None:
    variances = torch.linalg.eigvalsh(real_features.double().T.cov())
    participation_ratio = variances.sum() ** 2 / variances.square().sum()
    assert participation_ratio > 5


def test_any_length_from_five_frames_and_any_size_is_read(extractor: Shapes3dExtractor) -> None:
    views = clips(seed=3, count=32, frames=33)
    small = extractor.read(views.videos()).logits.argmax(1)
    large = np.stack([scene.render(views.times, 64, 64) for scene in views.scenes])
    seen = extractor.read(torch.from_numpy(large).permute(0, 1, 4, 2, 3)).logits.argmax(1)
    assert (seen == small).double().mean() > 0.9
    with pytest.raises(UserError, match="at least 5 frames"):
        extractor.read(views.videos()[:, :4])


@pytest.mark.parametrize(("height", "width"), [(32, 48), (96, 64)])
def test_rectangles_are_read_in_their_proportions(extractor: Shapes3dExtractor, height: int, width: int) -> None:
    rng, times = np.random.default_rng(4), np.linspace(0, 1, FRAMES)
    chosen = rng.integers(len(ALL_ATTRIBUTES), size=96)
    scenes = [sample_scene(rng, ALL_ATTRIBUTES[index], 1.0, size=canvas(height, width)) for index in chosen]
    videos = torch.from_numpy(np.stack([scene.render(times, height, width) for scene in scenes]))
    logits = extractor.read(videos.permute(0, 1, 4, 2, 3)).logits.unflatten(1, (len(MOTIONS), len(SHAPES)))
    for axis, values, wanted, least in ((2, MOTIONS, "motion", 0.85), (1, SHAPES, "shape", 0.97)):
        named = logits.logsumexp(axis).argmax(1)
        expected = torch.tensor([values.index(getattr(scene.attributes, wanted)) for scene in scenes])
        assert (named == expected).double().mean() > least


def test_logits_are_of_motion_and_shape_together(real: Tensor, extractor: Shapes3dExtractor) -> None:
    scenes = clips(seed=1).scenes
    expected = [
        MOTIONS.index(scene.attributes.motion) * len(SHAPES) + SHAPES.index(scene.attributes.shape) for scene in scenes
    ]
    assert (extractor.read(real).logits.argmax(1) == torch.tensor(expected)).double().mean() > 0.95


def test_inception_score_of_recognised_clips_is_the_perplexity_of_their_classes(
    real: Tensor, extractor: Shapes3dExtractor
) -> None:
    counts = torch.bincount(extractor.read(real).logits.argmax(1)).double()
    shares = counts[counts > 0] / len(real)
    perplexity = float((-(shares * shares.log()).sum()).exp())
    assert values(InceptionScore(), real[:0], real)["is"] == pytest.approx(perplexity, rel=0.05)


def test_inception_score_of_one_clip_repeated_is_one(real: Tensor) -> None:
    assert values(InceptionScore(), real[:0], real[:1].expand(8, -1, -1, -1, -1))["is"] == pytest.approx(1, abs=1e-6)


def test_protocol_says_what_two_values_must_share(real: Tensor) -> None:
    metric = InceptionScore(InceptionScore.Config(splits=2))
    values(metric, real[:4], real[:10])
    assert metric.protocol == {
        "extractor": "shapes3d",
        "extractor_sha256": Shapes3dExtractor().sha256,
        "resize": "shorter side 32, bilinear, antialiased",
        "frames": FRAMES,
        "height": 32,
        "width": 32,
        "scores": "logits",
        "splits": 2,
        "generated_samples": 10,
    }


def test_weights_are_small_and_say_how_to_train_them_anew() -> None:
    assert WEIGHTS.stat().st_size < 2_000_000
    with safe_open(WEIGHTS, "pt") as file:
        metadata = file.metadata()
    assert metadata["command"].startswith("python -m cogvid_plugins.shapes.training --out shapes3d.safetensors")
    assert "motion" in metadata["accuracy_17_frames"]


def test_registered_metrics_are_built_from_checked_options() -> None:
    fvd = register_metrics()["fvd"]
    config = OmegaConf.merge(OmegaConf.structured(fvd.Config), {"extractor": "i3d", "path": "absent.pt"})
    with pytest.raises(UserError, match=r"absent\.pt"):
        fvd(OmegaConf.to_object(config))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fvd", {"extractor": "i4d"}, r"options\.extractor: .* 'c3d', or .* YAML file .*, got 'i4d'"),
        ("fvd", {"extractor": "shapes3d", "path": "file.pt"}, "does not read 'file.pt'"),
        ("inception_score", {"splits": 0}, r"options\.splits: .* at least 1 .*, got 0"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_component("metric", name, options)
