"""The interpolation strategies conform, and their suite catches those that do not, by the name of the check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvid import InterpolationStrategy, Round, UserError, Window
from cogvid.testing import ConformanceError, interpolation_conformance
from cogvid_plugins.interpolation.hold import Hold
from cogvid_plugins.interpolation.linear import Linear
from cogvid_plugins.interpolation.recursive import Recursive
from cogvid_plugins.interpolation.sequential_overlap import SequentialOverlap


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("recursive", {}),
        ("sequential_overlap", {}),
        ("sequential_overlap", {"overlap": 2}),
        ("hold", {}),
        ("linear", {}),
    ],
    ids=str,
)
def test_a_built_in_strategy_conforms(name: str, options: dict[str, Any]) -> None:
    interpolation_conformance(name, options, key_frames=range(1, 10))


class Planned(Recursive):
    """The recursive plan, each of its rounds, or all of them, changed."""

    def __init__(self, each: Callable[[Round], Any] = lambda part: part, plan: Any = None, places: Any = None) -> None:
        super().__init__()
        self.each, self.all, self.places = each, plan or (lambda plan: plan), places
        self.asked = 0

    def plan(self, key_frames: int, target: int) -> Any:
        self.asked += 1
        return self.all([self.each(part) for part in super().plan(key_frames, target)])

    def key_frame_places(self, key_frames: int, target: int) -> Any:
        places = super().key_frame_places(key_frames, target)
        return self.places(places) if self.places else places


class Forgetful(Recursive):
    """Plans one round fewer than it was asked for often enough."""

    asked = 0

    def plan(self, key_frames: int, target: int) -> list[Round]:
        self.asked += 1
        if self.asked > 100:
            raise UserError("100 plans are enough")
        return super().plan(key_frames, target)


class Silent(Recursive):
    def plan(self, key_frames: int, target: int) -> list[Round]:
        try:
            return super().plan(key_frames, target)
        except UserError:
            raise UserError("these frames do not go") from None


class Unable(Recursive):
    def plan(self, key_frames: int, target: int) -> list[Round]:
        if target != key_frames:
            raise UserError(f"use {key_frames}")
        return []


class Refusing(Recursive):
    def plan(self, key_frames: int, target: int) -> list[Round]:
        try:
            return super().plan(key_frames, target)
        except UserError as error:
            raise ValueError(str(error)) from None


class Jumping(SequentialOverlap):
    """Its windows have a gap, and say nothing of it."""

    def plan(self, key_frames: int, target: int) -> list[Round]:
        rounds = super().plan(key_frames, target)
        return [replace(part, rate_factor=3.0) for part in rounds]


class Filled(Hold):
    """Frames held, and then changed."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def fill(self, frames: Tensor, target: int) -> Tensor:
        return self.change(super().fill(frames, target), frames)


class Random(Linear):
    """Frames between key frames are noise."""

    def fill(self, frames: Tensor, target: int) -> Tensor:
        filled = super().fill(frames, target)
        noise = torch.randint_like(filled, 256)
        noise[:, self.key_frame_places(frames.shape[1], target)] = filled[
            :, self.key_frame_places(frames.shape[1], target)
        ]
        return noise


class Careless(Hold):
    """Takes key frames away where there is no room for them."""

    def fill(self, frames: Tensor, target: int) -> Tensor:
        return frames[:, :target] if target < frames.shape[1] else super().fill(frames, target)


def other_windows(change: Callable[[Window], Window]) -> Callable[[Round], Round]:
    return lambda part: replace(part, windows=tuple(map(change, part.windows)))


def written_over(filled: Tensor, frames: Tensor) -> Tensor:
    frames.zero_()
    return filled


@pytest.mark.parametrize(
    ("strategy", "caught"),
    [
        (Unable(), "reaches"),
        (Silent(), "refuses"),
        (Refusing(), "plan"),
        (Planned(places=lambda places: [place + 1 for place in places]), "places"),
        (Planned(places=lambda places: places[:-1]), "places"),
        (Planned(places=lambda places: places[::-1]), "places"),
        (Careless(), "places"),
        (Planned(plan=lambda plan: plan[:-1]), "plan"),
        (Planned(plan=lambda plan: plan[::-1]), "plan"),
        (Planned(plan=lambda plan: [*plan, *plan[-1:]]), "plan"),
        (Planned(plan=lambda plan: None), "plan"),
        (Planned(other_windows(lambda window: replace(window, given=(True,) * len(window.given)))), "plan"),
        (Planned(other_windows(lambda window: replace(window, frames=window.frames[::-1]))), "windows"),
        (Planned(lambda part: replace(part, rate_factor=2.0)), "rates"),
        (Jumping(), "rates"),
        (Filled(lambda filled, frames: filled.float()), "fill"),
        (Filled(lambda filled, frames: filled[:1]), "fill"),
        (Filled(lambda filled, frames: filled[:, 1:]), "fill"),
        (Filled(lambda filled, frames: filled.flip(1)), "kept"),
        (Filled(lambda filled, frames: 255 - filled), "kept"),
        (Filled(written_over), "kept"),
        (Filled(lambda filled, frames: filled.flip(0)), "alone"),
        (Random(), "same"),
        (Forgetful(), "same"),
    ],
)
def test_a_broken_promise_is_named(strategy: InterpolationStrategy, caught: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ConformanceError, match="does not conform") as error:
        interpolation_conformance(strategy)
    assert caught in error.value.failures
