"""Positions on the grid, and who may see whom."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from cogvid import Grid, Position
from cogvid.interfaces.mask import Stage, Visibility, causal, given_frames
from cogvid_plugins.attention.swin_ar import SwinAR

GRID = Grid(5, 2, 3)
STAGES: tuple[Stage, ...] = ("sequential", "interpolation")


def pairs(grid: Grid) -> tuple[Position, Position]:
    axes = grid.positions()
    return Position(*(a[:, None] for a in axes)), Position(*(a[None, :] for a in axes))


def may_depend(stage: Stage, query: tuple[int, int, int], key: tuple[int, int, int]) -> bool:
    """The order of generation, written out: (frame, row, column) of a query and a key."""
    if stage == "sequential":
        return key <= query
    if key[0] % 2 == 0:
        return True
    return query[0] % 2 == 1 and key <= query


def test_positions_are_in_raster_order_frame_by_frame() -> None:
    expected = list(product(range(5), range(2), range(3)))
    assert torch.stack(GRID.positions(), dim=1).tolist() == [list(p) for p in expected]


def test_a_grid_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Grid(1, 0, 3)


@pytest.mark.parametrize("stage", STAGES)
def test_the_causal_order_equals_the_written_out_rule(stage: Stage) -> None:
    places = list(product(range(5), range(2), range(3)))
    expected = [[may_depend(stage, query, key) for key in places] for query in places]
    given = torch.tensor(given_frames(stage, GRID.frames))
    assert causal(*pairs(GRID), GRID.width, given).tolist() == expected


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_visible_token_may_depend_on_its_reader_may_too(stage: Stage) -> None:
    allowed = causal(*pairs(GRID), GRID.width, torch.tensor(given_frames(stage, GRID.frames)))
    through_another = (allowed.int() @ allowed.int()) > 0
    assert torch.equal(through_another, allowed)


def test_every_other_frame_from_the_first_on_is_given_to_interpolation() -> None:
    assert given_frames("interpolation", 5) == (True, False, True, False, True)
    assert given_frames("sequential", 3) == (False, False, False)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_interpolation_needs_a_given_frame_at_both_ends(frames: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        given_frames("interpolation", frames)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("layer", [0, 1])
def test_rows_of_a_mask_equal_those_of_the_whole_mask(stage: Stage, layer: int) -> None:
    backend = SwinAR(SwinAR.Config(window=[2, 2], frames=2))
    visibility = Visibility(backend.pattern, GRID, given_frames(stage, GRID.frames), layer)
    chosen = torch.tensor([17, 0, 4, 29])
    assert torch.equal(visibility.rows(chosen), visibility.dense()[chosen])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_mask_is_the_causal_order_within_the_pattern(stage: Stage, layer: int) -> None:
    backend = SwinAR(SwinAR.Config(window=[2, 2], frames=2))
    visible = Visibility(backend.pattern, GRID, given_frames(stage, GRID.frames), layer).dense()
    allowed = causal(*pairs(GRID), GRID.width, torch.tensor(given_frames(stage, GRID.frames)))
    near = backend.pattern(*pairs(GRID), layer)
    assert torch.equal(visible, allowed & near)
    assert not torch.equal(visible, allowed)
    assert not torch.equal(visible, near)
