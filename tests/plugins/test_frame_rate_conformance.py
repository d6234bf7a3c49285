"""The frame-rate schedulers conform, and their suite catches those that do not, by the name of the check."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from cogvid import FrameRateScheduler
from cogvid.interfaces.frame_rate import frames_at
from cogvid.testing import ConformanceError, frame_rate_conformance

Training = Callable[[float, int], Any]
Generation = Callable[[float, int, int], Any]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lowest_fit", {}),
        ("lowest_fit", {"rates": [23.976, 0.29, 8]}),
        ("uniform", {}),
        ("fixed", {}),
        ("fixed", {"rate": 29.97}),
    ],
    ids=str,
)
def test_a_built_in_scheduler_conforms(name: str, options: dict[str, Any]) -> None:
    frame_rate_conformance(name, options)


class Made(FrameRateScheduler):
    """Of functions."""

    def __init__(self, training: Training, generation: Generation | None = None) -> None:
        super().__init__()
        self.training, self.generation = training, generation

    def training_rates(self, duration: float, frames: int) -> Any:
        return self.training(duration, frames)

    def generation_rates(self, duration: float, frames: int, rounds: int) -> Any:
        if self.generation is not None:
            return self.generation(duration, frames, rounds)
        return super().generation_rates(duration, frames, rounds)


def four(duration: float, frames: int) -> list[float]:
    """Four frames a second."""
    return [4.0] if frames_at(duration, 4.0) >= frames else []


class Longest(FrameRateScheduler):
    """Leaves a clip out that is shorter than one that it has seen."""

    longest = 0.0

    def training_rates(self, duration: float, frames: int) -> list[float]:
        self.longest = max(self.longest, duration)
        return four(duration, frames) if duration == self.longest else []


class Changing(FrameRateScheduler):
    """Gives the same list every time, and goes on filling it."""

    rates: list[float]

    def training_rates(self, duration: float, frames: int) -> list[float]:
        self.rates = [*getattr(self, "rates", []), 4.0]
        return self.rates if frames_at(duration, 4.0) >= frames else []


def test_a_rate_that_follows_from_the_duration_conforms() -> None:
    frame_rate_conformance(Made(lambda duration, frames: [(frames - 1) / duration] if duration > 0.1 else []))


def never(duration: float, frames: int) -> list[float]:
    return []


@pytest.mark.parametrize(
    ("scheduler", "caught"),
    [
        (Made(lambda duration, frames: (4.0,)), "rates"),
        (Made(lambda duration, frames: four(duration, frames) and [0.0]), "rates"),
        (Made(lambda duration, frames: four(duration, frames) and [float("inf")]), "rates"),
        (Made(lambda duration, frames: four(duration, frames) and ["4"]), "rates"),
        (Made(lambda duration, frames: [frames / duration]), "rates"),
        (Made(lambda duration, frames: [4.0]), "fits"),
        (Made(lambda duration, frames: [4.0] if round(duration * 4) + 1 >= frames else []), "fits"),
        (Made(lambda duration, frames: [4.0, 8.0] if frames_at(duration, 8) >= frames else []), "fits"),
        (Made(never), "starved"),
        (Made(lambda duration, frames: [4.0] if duration > (frames - 1) / 4 else []), "starved"),
        (Made(lambda duration, frames: four(duration, frames) if duration < 60 else []), "starved"),
        (Made(lambda duration, frames: [24.5] if int(duration * 24.5) + 1 >= frames else []), "starved"),
        (Made(lambda duration, frames: random.random() and [0.01 * random.random()]), "same"),
        (Longest(), "same"),
        (Changing(), "same"),
        (Made(four, lambda duration, frames, rounds: four(duration, frames)), "generation"),
        (Made(four, lambda duration, frames, rounds: [4.0] * (rounds + 1)), "generation"),
        (Made(four, lambda duration, frames, rounds: four(duration, frames) and [4.0] + [0.0] * rounds), "generation"),
        (Made(four, lambda duration, frames, rounds: four(duration, frames) and [2.0] * (rounds + 1)), "generation"),
        (Made(four, lambda duration, frames, rounds: []), "generation"),
        (Made(four, lambda duration, frames, rounds: None), "generation"),
    ],
)
def test_a_broken_promise_is_named(scheduler: FrameRateScheduler, caught: str) -> None:
    with pytest.raises(ConformanceError, match="does not conform") as error:
        frame_rate_conformance(scheduler)
    assert caught in error.value.failures


def test_a_rate_that_others_are_shown_at_and_floats_nearly_miss_is_not_missed() -> None:
    # Intervals at 24.5 a second end a little before a whole product of floats.
    with pytest.raises(ConformanceError) as error:
        frame_rate_conformance(Made(lambda duration, frames: [24.5] if int(duration * 24.5) + 1 >= frames else []))
    assert [*error.value.failures] == ["starved"]
