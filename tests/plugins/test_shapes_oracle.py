from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from cogvid import UserError, create_component
from cogvid_plugins.interpolation.hold import Hold
from cogvid_plugins.interpolation.linear import Linear
from cogvid_plugins.shapes.oracle import NONE, ShapesOracle, classify_motion, measure, path_error
from cogvid_plugins.shapes.world import (
    ALL_ATTRIBUTES,
    COLOURS,
    MOTIONS,
    Attributes,
    Scene,
    canvas,
    motion_path,
    sample_scene,
)

RED_SQUARE = Attributes("big", "red", "square", ("right",))


def scenes_of(attributes: Sequence[Attributes], seed: int = 0, size: tuple[float, float] = (1.0, 1.0)) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng, one, 1.0, size=size) for one in attributes]


def some_scenes(count: int, seed: int = 0, size: tuple[float, float] = (1.0, 1.0)) -> list[Scene]:
    order = np.random.default_rng(seed).permutation(len(ALL_ATTRIBUTES))[:count]
    return scenes_of([ALL_ATTRIBUTES[index] for index in order], seed, size)


def videos_of(scenes: Sequence[Scene], frames: int, height: int = 32, width: int = 32) -> Tensor:
    times = np.linspace(0, 1, frames)
    return torch.from_numpy(np.stack([scene.render(times, height, width) for scene in scenes])).permute(0, 1, 4, 2, 3)


def captions_of(scenes: Sequence[Scene]) -> list[str]:
    return [scene.caption for scene in scenes]


def scores(videos: Tensor, captions: Sequence[str]) -> dict[str, float]:
    oracle = ShapesOracle()
    oracle.update(videos, captions, real=False)
    return {name: float(value) for name, value in oracle.compute().items()}


def blur(videos: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, as a weak decoder does."""
    kernel = torch.exp(-(torch.arange(-4, 5.0) ** 2) / (2 * sigma**2))
    kernel = torch.outer(kernel, kernel) / kernel.sum() ** 2
    images = pad(videos.flatten(0, 2)[:, None].float(), (4, 4, 4, 4), mode="replicate")
    return conv2d(images, kernel[None, None]).view(videos.shape).round().to(torch.uint8)


def noisy(videos: Tensor, deviation: float) -> Tensor:
    noise = deviation * torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    return (videos + noise).round().clamp(0, 255).to(torch.uint8)


def paint(videos: Tensor, frame: int, top: int, left: int, side: int, colour: tuple[int, int, int]) -> Tensor:
    videos = videos.clone()
    videos[:, frame, :, top : top + side, left : left + side] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return videos


def erase(videos: Tensor, frame: int) -> Tensor:
    """The videos with nothing but background in one frame."""
    videos = videos.clone()
    videos[:, frame] = background_of(videos)
    return videos


def background_of(videos: Tensor) -> Tensor:
    return videos[:, 0].flatten(2).median(2).values[:, :, None, None]


def test_real_key_frames_of_every_combination_are_read_right() -> None:
    scenes = scenes_of(ALL_ATTRIBUTES)
    got = scores(videos_of(scenes, 5), captions_of(scenes))
    assert min(got[name] for name in ("colour", "shape", "size", "motion", "all")) >= 0.995


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (32, 48), (48, 32), (32, 80)])
def test_real_clips_of_17_frames_are_read_right(height: int, width: int) -> None:
    scenes = some_scenes(64 if height == 32 else 16, size=canvas(height, width))
    got = scores(videos_of(scenes, 17, height, width), captions_of(scenes))
    assert min(got[name] for name in ("colour", "shape", "size", "motion", "all")) >= 0.995
    assert got["path_error"] < 0.05


@pytest.mark.parametrize(
    "spoil", [lambda videos: blur(videos, 1.0), lambda videos: noisy(videos, 10)], ids=["blur", "noise"]
)
def test_what_a_decoder_does_to_edges_and_flat_areas_is_forgiven(spoil: Callable[[Tensor], Tensor]) -> None:
    scenes = some_scenes(128)
    got = scores(spoil(videos_of(scenes, 5)), captions_of(scenes))
    assert got["all"] >= 0.98


@pytest.mark.parametrize("width", [32, 48])
def test_measured_centres_are_the_true_centres(width: int) -> None:
    scenes = some_scenes(64, size=canvas(32, width))
    measured = measure(videos_of(scenes, 17, 32, width).numpy())
    true = np.stack([scene.position(np.linspace(0, 1, 17), 32) for scene in scenes])
    assert np.linalg.norm(measured.centre - true, axis=-1).max() < 0.35


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        (replace(RED_SQUARE, colour="magenta"), "colour"),
        (replace(RED_SQUARE, shape="circle"), "shape"),
        (replace(RED_SQUARE, size="small"), "size"),
        (replace(RED_SQUARE, motion=("left",)), "motion"),
        (replace(RED_SQUARE, motion=("right", "left")), "motion"),
    ],
)
def test_a_clip_that_differs_from_its_caption_in_one_thing_is_wrong_in_that_alone(
    other: Attributes, wrong: str
) -> None:
    scenes = scenes_of([other] * 8)
    got = scores(videos_of(scenes, 17), [RED_SQUARE.caption] * 8)
    rest = {"colour", "shape", "size", "motion"} - {wrong}
    assert got[wrong] == got["all"] == 0
    assert {got[name] for name in rest} == {1}


def test_a_transposed_clip_moves_along_the_other_axis() -> None:
    scenes = some_scenes(32, size=canvas(32, 48))
    got = scores(videos_of(scenes, 17, 32, 48).mT, captions_of(scenes))
    assert got["colour"] == 1
    assert got["motion"] == 0


def test_one_frame_without_the_object_makes_the_clip_wrong() -> None:
    scenes = some_scenes(16)
    got = scores(erase(videos_of(scenes, 5), 3), captions_of(scenes))
    assert [got[name] for name in ("colour", "shape", "size", "motion", "all")] == [0] * 5
    assert got["frame_colour"] == got["frame_shape"] == got["present"] == pytest.approx(0.8)


def test_an_empty_canvas_has_no_object() -> None:
    measured = measure(np.full((1, 2, 3, 32, 32), 130, dtype=np.uint8))
    assert not measured.present.any()
    assert np.isnan(measured.centre).all()
    assert (measured.shape == NONE).all()


def test_a_second_object_of_another_colour_is_no_object_of_the_first() -> None:
    videos = torch.full((1, 1, 3, 32, 32), 130, dtype=torch.uint8)
    videos = paint(videos, 0, top=4, left=4, side=8, colour=COLOURS["red"])
    assert measure(videos.numpy()).colour.item() == list(COLOURS).index("red")
    videos = paint(videos, 0, top=20, left=20, side=8, colour=COLOURS["blue"])
    assert not measure(videos.numpy()).present.any()


@pytest.mark.parametrize("places", [[(2, 2), (2, 20)], [(2, 2), (20, 20), (2, 20)]], ids=["two", "three"])
def test_several_objects_have_no_shape(places: list[tuple[int, int]]) -> None:
    videos = torch.full((1, 1, 3, 32, 32), 130, dtype=torch.uint8)
    for top, left in places:
        videos = paint(videos, 0, top, left, 8, COLOURS["green"])
    measured = measure(videos.numpy())
    assert measured.shape.item() == measured.size.item() == NONE


def test_a_bar_has_no_shape() -> None:
    videos = torch.full((1, 1, 3, 32, 32), 130, dtype=torch.uint8)
    videos[..., 14:18, 4:28] = torch.tensor(COLOURS["cyan"], dtype=torch.uint8)[:, None, None]
    measured = measure(videos.numpy())
    assert measured.colour.item() == list(COLOURS).index("cyan")
    assert measured.shape.item() == NONE


@pytest.mark.parametrize("motion", MOTIONS, ids=" ".join)
@pytest.mark.parametrize("frames", [5, 17])
def test_a_motion_is_known_by_its_path_wherever_it_starts(motion: tuple[str, ...], frames: int) -> None:
    rng = np.random.default_rng(0)
    path = 10 * motion_path(motion, np.linspace(0, 1, frames)) + rng.uniform(8, 24, (20, 1, 2))
    wobble = rng.normal(0, 0.5, path.shape)
    assert (classify_motion(path + wobble, 32) == MOTIONS.index(motion)).all()


def test_what_does_not_move_as_a_motion_does_is_none() -> None:
    progress = np.linspace(0, 1, 17)
    still = np.random.default_rng(0).normal(16, 0.3, (17, 2))
    slow = 16 + 3 * motion_path(("right",), progress)
    circle = 16 + 6 * np.stack([np.cos(4 * np.pi * progress), np.sin(4 * np.pi * progress)], axis=-1)
    along = 16 + 10 * motion_path(("right",), progress)
    shaken = along + 8 * np.stack([0 * progress, (-1.0) ** np.arange(17)], axis=-1)
    lost = along.copy()
    lost[7] = np.nan
    assert (classify_motion(np.stack([still, slow, circle, shaken, lost]), 32) == NONE).all()


@pytest.mark.parametrize("motion", MOTIONS, ids=" ".join)
def test_frames_on_the_path_have_no_path_error_whatever_the_length_of_each_phase(
    motion: tuple[str, ...],
) -> None:
    progress = np.linspace(0, 1, 17) * len(motion)
    phases = [motion_path((direction,), progress - phase) for phase, direction in enumerate(motion)]
    centres = np.array([10.0, 20.0]) + sum(length * phase for length, phase in zip([11, 7], phases, strict=False))
    assert path_error(centres, motion, 5) == pytest.approx(0, abs=1e-9)


def test_path_error_is_the_mean_distance_of_the_frames_between_key_frames() -> None:
    centres = 16 + 8 * motion_path(("right",), np.linspace(0, 1, 9))
    centres[1] += [0, 3]
    centres[6] += [4, 3]
    assert path_error(centres, ("right",), 3) == pytest.approx((3 + 5) / 6)


def test_losing_the_object_between_key_frames_is_no_better_than_standing_still() -> None:
    path = 16 + 8 * motion_path(("right",), np.linspace(0, 1, 17))
    held = path[np.arange(17) // 4 * 4]
    lost = path.copy()
    lost[np.arange(17) % 4 != 0] = np.nan
    assert path_error(lost, ("right",), 5) >= path_error(held, ("right",), 5) > 0.9


def test_a_key_frame_without_the_object_leaves_the_path_open() -> None:
    path = 16 + 8 * motion_path(("right",), np.linspace(0, 1, 17))
    path[8] = np.nan
    assert np.isnan(path_error(path, ("right",), 5))


@pytest.mark.parametrize("frames", [5, 6])
def test_key_frames_alone_have_no_path_error(frames: int) -> None:
    scenes = some_scenes(4)
    assert np.isnan(scores(videos_of(scenes, frames), captions_of(scenes))["path_error"])


def test_true_frames_beat_a_cross_fade_and_a_cross_fade_beats_holding() -> None:
    scenes = some_scenes(64)
    captions = captions_of(scenes)
    keys = videos_of(scenes, 5)
    true = scores(videos_of(scenes, 17), captions)
    linear = scores(Linear().fill(keys, 17), captions)
    hold = scores(Hold().fill(keys, 17), captions)
    assert true["path_error"] < 0.05
    assert 0.4 < linear["path_error"] < 0.8
    assert 1.8 < hold["path_error"] < 2.2
    assert true["frame_shape"] == 1 > 0.95 > linear["frame_shape"]


def test_clips_whose_key_frames_move_otherwise_say_nothing_about_the_path() -> None:
    scenes = some_scenes(16)
    captions = captions_of(scenes)
    videos = videos_of(scenes, 17)
    turned = [
        replace(scene.attributes, motion=MOTIONS[(MOTIONS.index(scene.attributes.motion) + 1) % 16]) for scene in scenes
    ]
    both = scores(torch.cat([videos, Hold().fill(videos[:, ::4], 17)]), captions + [one.caption for one in turned])
    assert both["motion"] == pytest.approx(0.5)
    assert both["path_error"] == pytest.approx(scores(videos, captions)["path_error"])


def test_batches_add_up_and_real_videos_are_not_scored() -> None:
    scenes = some_scenes(12)
    videos, captions = videos_of(scenes, 17), captions_of(scenes)
    captions[:3] = captions[3:6]
    oracle = ShapesOracle()
    oracle.update(videos[:5], captions[:5], real=False)
    oracle.update(videos.flip(0), ["no caption of this world"] * 12, real=True)
    oracle.update(videos[5:], captions[5:], real=False)
    got = {name: float(value) for name, value in oracle.compute().items()}
    assert got == pytest.approx(scores(videos, captions))
    assert got["all"] < 1


def test_scores_are_undetermined_before_any_video() -> None:
    with pytest.warns(UserWarning, match="before the ``update``"):
        values = ShapesOracle().compute().values()
    assert all(value.isnan() and value.dtype == torch.float64 for value in values)


def test_a_caption_of_another_world_is_named() -> None:
    with pytest.raises(UserError, match="'a cat sleeps' does not describe"):
        ShapesOracle().update(videos_of(some_scenes(1), 5), ["a cat sleeps"], real=False)


def test_a_single_key_frame_is_refused() -> None:
    with pytest.raises(UserError, match="key_frames"):
        create_component("metric", "shapes_oracle", {"key_frames": 1})
