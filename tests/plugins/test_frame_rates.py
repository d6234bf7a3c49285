"""Frame-rate schedulers: which rates a clip of some length is shown at."""

from __future__ import annotations

import pytest

from cogvid.errors import UserError
from cogvid.interfaces.component import Component
from cogvid.plugins.manager import create_component

FRAMES = 5


@pytest.mark.parametrize(
    ("duration", "rates"),
    [
        (60.0, [0.5]),
        (8.0, [0.5]),
        (7.9, [1.0]),
        (4.0, [1.0]),
        (2.0, [2.0]),
        (1.0, [4.0]),
        (0.9, []),
        (0.0, []),
    ],
)
def test_lowest_fit_takes_the_lowest_rate_that_yields_enough_frames(duration: float, rates: list[float]) -> None:
    assert create_component("frame_rate", "lowest_fit").training_rates(duration, FRAMES) == rates


@pytest.mark.parametrize(
    ("duration", "rates"), [(8.0, [0.5, 1.0, 2.0, 4.0]), (2.5, [2.0, 4.0]), (1.0, [4.0]), (0.9, [])]
)
def test_uniform_takes_every_rate_that_yields_enough_frames(duration: float, rates: list[float]) -> None:
    assert create_component("frame_rate", "uniform").training_rates(duration, FRAMES) == rates


@pytest.mark.parametrize(("duration", "rates"), [(60.0, [2.0]), (2.0, [2.0]), (1.9, [])])
def test_fixed_leaves_out_what_is_too_short(duration: float, rates: list[float]) -> None:
    assert create_component("frame_rate", "fixed", {"rate": 2}).training_rates(duration, FRAMES) == rates


@pytest.mark.parametrize("name", ["lowest_fit", "uniform"])
def test_rates_may_stand_in_any_order(name: str) -> None:
    assert create_component("frame_rate", name, {"rates": [4, 1]}).training_rates(10.0, FRAMES)[0] == 1.0


@pytest.mark.parametrize(
    ("name", "options", "rates"),
    [
        ("lowest_fit", {}, [1.0, 2.0, 4.0]),
        ("uniform", {}, [1.0, 2.0, 4.0]),
        ("fixed", {"rate": 4}, [4.0, 8.0, 16.0]),
    ],
)
def test_generation_starts_at_the_lowest_training_rate_and_doubles_it_in_each_round(
    name: str, options: dict[str, float], rates: list[float]
) -> None:
    assert create_component("frame_rate", name, options).generation_rates(4.0, FRAMES, rounds=2) == rates


def test_no_rate_fits_a_clip_too_short_to_generate() -> None:
    assert create_component("frame_rate", "lowest_fit").generation_rates(0.5, FRAMES, rounds=2) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lowest_fit", {"rates": []}),
        ("lowest_fit", {"rates": [1, 0]}),
        ("uniform", {"rates": []}),
        ("uniform", {"rates": [-1]}),
        ("fixed", {"rate": 0}),
        ("fixed", {"rate": float("nan")}),
        ("fixed", {"rate": float("inf")}),
        ("lowest_fit", {"rates": [1, float("inf")]}),
    ],
)
def test_rates_must_be_above_zero(name: str, options: dict[str, float | list[float]]) -> None:
    with pytest.raises(UserError, match=rf"options\.rates?: .*{name!r} must be .*above 0 .*, got"):
        create_component("frame_rate", name, options)


@pytest.mark.parametrize("name", ["lowest_fit", "uniform"])
def test_default_rates_are_not_shared(name: str) -> None:
    first: Component = create_component("frame_rate", name)
    first.config.rates.append(8.0)
    assert create_component("frame_rate", name).config.rates == [0.5, 1.0, 2.0, 4.0]
