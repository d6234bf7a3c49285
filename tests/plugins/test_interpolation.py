"""Interpolation strategies: plans as plain data, and frames filled in without a model."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from torch import Tensor

import cogvid
from cogvid.errors import UserError
from cogvid.interfaces.interpolation import check_plan
from cogvid.plugins.manager import create_component

GIVEN = (True, False, True, False, True)


def strategy(name: str, **options: object) -> cogvid.InterpolationStrategy:
    made = create_component("interpolation", name, options)
    assert isinstance(made, cogvid.InterpolationStrategy)
    return made


def video(*levels: int) -> Tensor:
    """One tiny clip, each frame of one grey level."""
    return torch.tensor(levels, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(1, len(levels), 3, 2, 2)


def levels(frames: Tensor) -> list[int]:
    return frames[0, :, 0, 0, 0].tolist()


def test_recursive_doubles_five_frames_in_rounds_of_five_frame_windows() -> None:
    assert strategy("recursive").plan(5, 17) == [
        cogvid.Round(
            (cogvid.Window((0, 2, 4, 6, 8), GIVEN), cogvid.Window((8, 10, 12, 14, 16), GIVEN)),
            rate_factor=2.0,
        ),
        cogvid.Round(
            tuple(cogvid.Window((i, i + 1, i + 2, i + 3, i + 4), GIVEN) for i in (0, 4, 8, 12)),
            rate_factor=4.0,
        ),
    ]


@pytest.mark.parametrize(
    ("key_frames", "target", "windows"),
    [(5, 5, []), (5, 9, [2]), (5, 33, [2, 4, 8]), (3, 9, [2, 4]), (7, 13, [2]), (9, 33, [2, 4])],
)
def test_recursive_has_one_round_for_each_doubling(key_frames: int, target: int, windows: list[int]) -> None:
    assert [len(step.windows) for step in strategy("recursive").plan(key_frames, target)] == windows


def test_a_window_has_as_many_frames_as_there_are_key_frames() -> None:
    assert strategy("recursive").plan(3, 5) == [
        cogvid.Round(
            (cogvid.Window((0, 1, 2), (True, False, True)), cogvid.Window((2, 3, 4), (True, False, True))),
            rate_factor=2.0,
        )
    ]
    (step,) = strategy("recursive").plan(7, 13)
    assert [window.frames for window in step.windows] == [(0, 1, 2, 3, 4, 5, 6), (6, 7, 8, 9, 10, 11, 12)]


@pytest.mark.parametrize("key_frames", [3, 5, 7, 9, 21])
def test_every_round_is_given_known_frames_and_generates_each_missing_one_once(key_frames: int) -> None:
    made = strategy("recursive")
    for rounds in range(4):
        target = (key_frames - 1) * 2**rounds + 1
        plan = made.plan(key_frames, target)
        assert len(plan) == rounds
        check_plan("recursive", made.key_frame_places(key_frames, target), plan, target)
        known = set(range(0, target, 2**rounds))
        for step in plan:
            places = [place for window in step.windows for place in zip(window.frames, window.given, strict=True)]
            assert {frame for frame, given in places if given} == known
            known.update(frame for frame, _ in places)
        assert known == set(range(target))


@pytest.mark.parametrize("target", [16, 13, 3, 1])
def test_recursive_names_the_numbers_of_frames_it_reaches(target: int) -> None:
    with pytest.raises(UserError, match=rf"5 key frames do not double to {target} frames: use 5, 9, 17, 33, 65"):
        strategy("recursive").plan(5, target)


@pytest.mark.parametrize("key_frames", [0, 1, 2, 4, 6])
def test_recursive_needs_an_odd_number_of_key_frames(key_frames: int) -> None:
    with pytest.raises(UserError, match=rf"{key_frames} key frames \(video.frames\) make no windows"):
        strategy("recursive").plan(key_frames, 17)


def test_every_number_that_recursive_offers_works() -> None:
    made, kinds = strategy("recursive"), set()
    for key_frames, target in product(range(-1, 12), range(-1, 50)):
        try:
            made.plan(key_frames, target)
        except UserError as error:
            said, _, offer = str(error).partition(": ")[2].partition("use ")
            numbers = [int(number) for number in re.findall(r"\d+", offer)]
            if "do not double" in said:
                kind, pairs = "targets", [(key_frames, number) for number in numbers]
            elif "generation.frames" in said:
                kind, pairs = "key frames", [(number, target) for number in numbers]
            else:
                kind, pairs = "both", [(numbers[0], number) for number in numbers[1:]]
            assert pairs
            kinds.add(kind)
            for pair in pairs:
                made.plan(*pair)
    assert kinds == {"targets", "key frames", "both"}


@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("target", range(5, 41))
def test_overlapping_windows_make_every_frame_once_from_frames_made_before(overlap: int, target: int) -> None:
    made = strategy("sequential_overlap", overlap=overlap)
    known = made.key_frame_places(5, target)
    assert known == [0, 1, 2, 3, 4]
    plan = made.plan(5, target)
    for step in plan:
        assert (step.rate_factor, step.stage) == (1.0, "sequential")
        (window,) = step.windows
        given = sum(window.given)
        assert window.given == (True,) * given + (False,) * (5 - given)
        assert given == overlap or (step is plan[-1] and given >= overlap)
        assert list(window.frames[:given]) == known[-given:]
        assert window.frames == tuple(range(window.frames[0], window.frames[0] + 5))
        known += window.frames[given:]
    assert known == list(range(target))
    assert len(plan) == -(-(target - 5) // (5 - overlap))


@pytest.mark.parametrize("target", [4, 1, 0])
def test_sequential_overlap_needs_room_for_its_key_frames(target: int) -> None:
    with pytest.raises(UserError, match=f"5 key frames do not fit into {target} frames: use 5 or more"):
        strategy("sequential_overlap").plan(5, target)


def test_an_overlap_that_makes_no_frame_is_refused() -> None:
    with pytest.raises(UserError, match=r"options\.overlap: .* at least 1"):
        strategy("sequential_overlap", overlap=0)
    with pytest.raises(UserError, match="use an overlap below 5"):
        strategy("sequential_overlap", overlap=5).plan(5, 9)


@pytest.mark.parametrize("name", ["recursive", "hold", "linear"])
def test_key_frames_are_spread_over_the_clip(name: str) -> None:
    assert strategy(name).key_frame_places(5, 17) == [0, 4, 8, 12, 16]
    assert strategy(name).key_frame_places(3, 6) == [0, 2, 5]
    assert strategy(name).key_frame_places(1, 4) == [0]


def test_a_round_is_of_the_interpolation_stage_unless_it_says_otherwise() -> None:
    assert cogvid.Round((), 2.0).stage == "interpolation"


def test_hold_repeats_each_key_frame_until_the_next() -> None:
    assert levels(strategy("hold").fill(video(10, 20, 30), 5)) == [10, 10, 20, 20, 30]
    assert levels(strategy("hold").fill(video(10, 20, 30), 6)) == [10, 10, 10, 20, 20, 30]


def test_linear_fades_between_key_frames() -> None:
    assert levels(strategy("linear").fill(video(0, 100, 0), 9)) == [0, 25, 50, 75, 100, 75, 50, 25, 0]
    assert levels(strategy("linear").fill(video(0, 90), 4)) == [0, 30, 60, 90]


def test_linear_rounds_to_the_nearest_level_and_neither_wraps_nor_clips() -> None:
    assert levels(strategy("linear").fill(video(0, 1, 2), 5)) == [0, 1, 1, 2, 2]
    assert levels(strategy("linear").fill(video(255, 254, 255), 7)) == [255, 255, 254, 254, 254, 255, 255]
    assert levels(strategy("linear").fill(video(255, 255), 4)) == [255] * 4


@pytest.mark.parametrize("name", ["hold", "linear"])
def test_filling_cannot_drop_key_frames(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}: 3 key frames do not fit into 2 frames"):
        strategy(name).fill(video(1, 2, 3), 2)


def test_what_needs_a_model_says_so() -> None:
    names = ("recursive", "sequential_overlap", "hold", "linear")
    assert [name for name in names if strategy(name).learned] == ["recursive", "sequential_overlap"]
