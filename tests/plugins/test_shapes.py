from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvid import Clip, UserError, create_component
from cogvid.data.reading import probe, read_frames
from cogvid.interfaces.data_source import Split
from cogvid_plugins.shapes import source as shapes
from cogvid_plugins.shapes.source import Shapes, list_jobs, read_scenes
from cogvid_plugins.shapes.world import (
    ALL_ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    RADII,
    SHAPES,
    SIZES,
    Attributes,
    Scene,
    canvas,
    coverage,
    extent,
    parse_caption,
    sample_scene,
)

RIGHT_THEN_UP = Scene(Attributes("small", "red", "circle", ("right", "up")), 4.0, (0.25, 0.75), 0.25, (99, 99, 99))


def some_scenes(count: int, size: tuple[float, float] = (1.0, 1.0)) -> list[Scene]:
    rng = np.random.default_rng(0)
    return [sample_scene(rng, ALL_ATTRIBUTES[i % len(ALL_ATTRIBUTES)], 2.0, size=size) for i in range(count)]


def make(
    folder: Path, seed: int = 0, progress: Callable[[int, int], None] = lambda *_: None, **options: Any
) -> list[Clip]:
    options = {"clips": 5, "test_clips": 3, "durations": [0.5, 1.0], **options}
    return Shapes(Shapes.Config(**options)).clips(folder, seed, progress)


def test_captions_read_as_documented() -> None:
    assert Attributes("small", "red", "circle", ("right",)).caption == "a small red circle moves right"
    assert RIGHT_THEN_UP.caption == "a small red circle moves right, then up"


def test_there_are_four_simple_and_twelve_two_phase_motions() -> None:
    assert [len(motion) for motion in MOTIONS] == [1] * 4 + [2] * 12
    assert all(len(set(motion)) == len(motion) for motion in MOTIONS)


def test_every_caption_gives_its_attributes_back() -> None:
    assert [parse_caption(attributes.caption) for attributes in ALL_ATTRIBUTES] == list(ALL_ATTRIBUTES)


@pytest.mark.parametrize(
    "text",
    [
        "a red small circle moves right",
        "a small red circle moves right, then right",
        "a small red circle moves right, then up, then left",
        "a small red circle",
        "a small red circle moves right quickly",
        "",
    ],
)
def test_other_texts_are_no_captions(text: str) -> None:
    with pytest.raises(UserError, match="does not describe"):
        parse_caption(text)


def test_the_phase_changes_in_the_middle_and_each_phase_is_uniform() -> None:
    way = RIGHT_THEN_UP.position([0, 1, 2, 3, 4], 32)
    np.testing.assert_allclose(way, [[8, 24], [12, 24], [16, 24], [16, 20], [16, 16]])


def test_positions_scale_with_the_canvas() -> None:
    times = np.linspace(0, 4, 9)
    np.testing.assert_allclose(RIGHT_THEN_UP.position(times, 64), 2 * RIGHT_THEN_UP.position(times, 32))


CANVASES = [(32, 32), (48, 48), (32, 48), (48, 32), (20, 70)]


@pytest.mark.parametrize(("height", "width"), CANVASES)
def test_the_shape_stays_inside_the_canvas_and_comes_to_all_of_its_sides(height: int, width: int) -> None:
    unit = min(height, width)
    gaps = []
    for scene in some_scenes(len(ALL_ATTRIBUTES), canvas(height, width)):
        reach = extent(scene.attributes.shape, RADII[scene.attributes.size] * unit)
        way = scene.position(np.linspace(0, scene.duration, 9), unit)
        gaps.append(
            [
                gap
                for (before, after), places, side in zip(reach, way.T, (width, height), strict=True)
                for gap in (places.min() - before, side - places.max() - after)
            ]
        )
    assert np.min(gaps) >= -1e-9
    assert np.max(np.min(gaps, axis=0)) < unit / 8


@pytest.mark.parametrize(("height", "width"), CANVASES)
def test_a_scene_is_drawn_in_its_proportions_on_any_canvas(height: int, width: int) -> None:
    unit = min(height, width)
    small, large = (RIGHT_THEN_UP.render([0, 3], factor * height, factor * width) for factor in (1, 2))
    assert small.shape == (2, height, width, 3)
    # Twice as large is the same picture, and the shape is as large as on a square of the shorter side.
    halved = large.reshape(2, height, 2, width, 2, 3).mean((2, 4))
    assert abs(halved - small).max() < 60
    square = RIGHT_THEN_UP.render([0, 3], unit, unit)
    assert np.array_equal(small[:, :unit, :unit], square)
    assert (small[:, unit:] == 99).all()
    assert (small[:, :, unit:] == 99).all()


@pytest.mark.parametrize(("shape", "size"), list(product(SHAPES, SIZES)))
def test_a_shape_keeps_its_area_and_centroid_between_pixels(shape: str, size: str) -> None:
    radius = RADII[size] * 32
    centres = np.random.default_rng(0).uniform(14, 18, (50, 2))
    alpha = coverage(shape, radius, centres, 32, 32)
    area = alpha.sum((1, 2))
    assert np.ptp(area) < 0.06 * area.mean()
    places = np.arange(32) + 0.5
    centroid = np.stack([alpha.sum(1) @ places, alpha.sum(2) @ places], axis=-1) / area[:, None]
    assert abs(centroid - centres).max() < 0.15


@pytest.mark.parametrize("shape", SHAPES)
def test_a_big_shape_is_clearly_larger_than_the_small_one(shape: str) -> None:
    middle = np.array([[16.0, 16.0]])
    small, big = (coverage(shape, RADII[size] * 32, middle, 32, 32).sum() for size in ("small", "big"))
    assert big > 1.8 * small


def test_colours_are_far_from_each_other_and_from_the_backgrounds() -> None:
    palette = np.array(list(COLOURS.values()), dtype=float)
    others = np.concatenate([palette, np.array(BACKGROUNDS, dtype=float)])
    distance = np.linalg.norm(palette[:, None] - others, axis=-1)
    assert distance[distance > 0].min() > 110


def test_rendered_frames_show_the_shape_in_its_colour_on_the_background() -> None:
    frames = RIGHT_THEN_UP.render([0, 4], 32, 32)
    assert frames.shape == (2, 32, 32, 3)
    assert frames.dtype == np.uint8
    for frame, (x, y) in zip(frames, [(8, 24), (16, 16)], strict=True):
        assert tuple(frame[y, x]) == COLOURS["red"]
        assert tuple(frame[0, 0]) == (99, 99, 99)
        covered = np.argwhere((frame != 99).any(-1)) + 0.5 - (y, x)
        assert np.hypot(*covered.T).max() == pytest.approx(RADII["small"] * 32, abs=1)


def test_clips_are_written_without_loss_with_both_end_frames(tmp_path: Path) -> None:
    clips = make(tmp_path)
    scenes = read_scenes(tmp_path)
    assert len(clips) == 8
    for clip in clips:
        scene = scenes[clip.id]
        times = np.linspace(0, scene.duration, round(scene.duration * 16) + 1)
        np.testing.assert_allclose(probe(clip.path).times.seconds, times)
        expected = torch.from_numpy(scene.render(times, 32, 32)).permute(0, 3, 1, 2)
        assert torch.equal(read_frames(clip.path, range(len(times))), expected)


def test_clips_of_a_rectangle_have_its_height_and_width(tmp_path: Path) -> None:
    clips = make(tmp_path, size=[24, 40])
    scenes = read_scenes(tmp_path)
    assert scenes == {job.id: job.scene for job in list_jobs("train", 5, [0.5, 1.0], 0, size=canvas(24, 40))} | {
        job.id: job.scene for job in list_jobs("test", 3, [0.5, 1.0], 0, size=canvas(24, 40))
    }
    for clip in clips:
        assert (probe(clip.path).height, probe(clip.path).width) == (24, 40)
        expected = torch.from_numpy(scenes[clip.id].render([0], 24, 40)).permute(0, 3, 1, 2)
        assert torch.equal(read_frames(clip.path, [0]), expected)


def test_the_captions_file_holds_what_the_clips_show(tmp_path: Path) -> None:
    clips = make(tmp_path)
    jobs = [*list_jobs("train", 5, [0.5, 1.0], 0), *list_jobs("test", 3, [0.5, 1.0], 0)]
    assert read_scenes(tmp_path) == {job.id: job.scene for job in jobs}
    assert [(clip.id, clip.caption, clip.split) for clip in clips] == [
        (job.id, job.scene.caption, job.split) for job in jobs
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_test_clips_show_combinations_that_training_never_shows(seed: int) -> None:
    train = {job.scene.attributes for job in list_jobs("train", 2000, [1.0], seed)}
    test = {job.scene.attributes for job in list_jobs("test", 256, [1.0], seed)}
    assert train.isdisjoint(test)
    assert len(train) + len(test) == len(ALL_ATTRIBUTES)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["size", "colour", "shape", "motion"])
def test_every_single_attribute_is_in_both_splits(split: Split, name: str) -> None:
    seen = {getattr(job.scene.attributes, name) for job in list_jobs(split, 256, [1.0], 0)}
    assert seen == {getattr(attributes, name) for attributes in ALL_ATTRIBUTES}


def test_a_clip_depends_on_the_seed_and_its_number_alone() -> None:
    assert list_jobs("train", 20, [1.0, 2.0], 3) == list_jobs("train", 50, [1.0, 2.0], 3)[:20]
    durations = [[job.scene.duration for job in list_jobs("train", 20, [1.0, 2.0], seed)] for seed in (3, 4)]
    assert durations[0] != durations[1]


def test_a_stopped_run_is_continued_with_the_clips_that_are_missing(tmp_path: Path) -> None:
    clips = make(tmp_path / "whole")
    made = {clip.id: clip.path.read_bytes() for clip in clips}
    make(tmp_path / "stopped", clips=3)
    (tmp_path / "stopped" / "clips" / ".train-00003.mp4.partial").write_bytes(b"unfinished")
    kept = tmp_path / "stopped" / "clips" / "train-00000.mp4"
    kept.write_bytes(b"not touched")
    calls: list[tuple[int, int]] = []
    clips = make(tmp_path / "stopped", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(6, 8), (7, 8), (8, 8)]
    assert kept.read_bytes() == b"not touched"
    assert all(clip.path.read_bytes() == made[clip.id] for clip in clips if clip.path != kept)
    names = {file.name for file in (tmp_path / "stopped" / "clips").iterdir()}
    assert names == {f"{clip.id}.mp4" for clip in clips}


def test_worker_processes_write_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = make(tmp_path / "alone")
    monkeypatch.setattr(shapes, "WORTH_WORKERS", 0)
    shared = make(tmp_path / "shared")
    assert [clip.path.read_bytes() for clip in shared] == [clip.path.read_bytes() for clip in alone]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"clips": 0}, r"options\.clips: .* at least 1 .*, got 0"),
        ({"test_clips": -1}, r"options\.test_clips: .* at least 0 .*, got -1"),
        ({"size": 8}, r"options\.size: .* from 16 .*, got 8"),
        ({"size": [32, 8]}, r"options\.size: .* from 16 .*, got \[32, 8\]"),
        ({"size": None}, r"options\.size: .* from 16 .*, got None"),
        ({"fps": 0}, r"options\.fps: .* from 1 .*, got 0"),
        ({"raster": 7}, r"options\.raster: .* at least 8 .*, got 7"),
        ({"durations": []}, r"options\.durations: .* 1 or more values.*, got \[\]"),
        ({"durations": [float("nan")]}, r"options\.durations: .* above 0 .*, got \[nan\]"),
        ({"durations": [1.0, 0.01]}, "0.01"),
    ],
)
def test_options_that_make_no_clips_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        create_component("data", "shapes", options)
