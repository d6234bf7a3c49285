"""Rows of places are gathered and put back alike, whether they are copied as rectangles or looked up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cogvid import Grid
from cogvid.attention.places import Places

GRID = Grid(2, 4, 6)
CPU = torch.device("cpu")


def rectangle(top: int, bottom: int, left: int, right: int) -> list[int]:
    return [row * 6 + column for row in range(top, bottom) for column in range(left, right)]


# Tiles of one shape, of two with as many places, that share places, the whole frame, and none.
CASES = {
    "halves": [rectangle(0, 2, 0, 6), rectangle(2, 4, 0, 6)],
    "two shapes": [rectangle(0, 2, 0, 3), rectangle(2, 3, 0, 6)],
    "overlapping": [rectangle(0, 3, 0, 4), rectangle(1, 4, 2, 6), rectangle(0, 3, 1, 5)],
    "whole": [rectangle(0, 4, 0, 6)],
    "nothing": [[], []],
}


def both(index: list[list[int]]) -> tuple[Places, Places]:
    places = Places.of(torch.tensor(index, dtype=torch.long), GRID, CPU)
    assert places.boxes is not None
    return places, replace(places, boxes=None)


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("index", CASES.values(), ids=CASES)
def test_rectangles_are_gathered_put_and_added_as_if_looked_up(index: list[list[int]]) -> None:
    # Not contiguous, as queries and keys come out of a projection.
    x, count = rows(0, 2, 2, GRID.frame_tokens, 3, 5).permute(0, 3, 1, 2, 4), len(index[0])
    found = []
    for places in both(index):
        tiles = torch.full((2, 3, len(index), 2, count, 5), torch.nan)
        places.gather(x, tiles)
        whole = rows(1, 2, 3, 2, GRID.frame_tokens, 5)
        places.add(2 * tiles, whole)
        part = places.part(slice(0, 1))
        written = torch.zeros_like(whole)
        part.put(tiles[:, :, :1], written)
        found.append((tiles, whole, written))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    tiles, _, written = found[0]
    for number, tile in enumerate(index):
        assert torch.equal(tiles[:, :, number], x[:, :, :, tile])
    assert torch.equal(written[:, :, :, index[0]], x[:, :, :, index[0]])
    assert int((written != 0).sum()) == 2 * 3 * 2 * 5 * count


@pytest.mark.parametrize("index", [[0, 1, 7], [0, 2], [1, 0], [5, 6]], ids=str)
def test_what_is_no_rectangle_is_looked_up(index: list[int]) -> None:
    assert Places.of(torch.tensor([index]), GRID, CPU).boxes is None
