"""Compact masks and block maps hold the visible pairs of a mask, all of them and no others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import AttentionBackend, Grid, Position
from cogvid.attention import compact
from cogvid.attention.blocks import BlockMap, block_map, raster_counts
from cogvid.attention.compact import compact_mask
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

STAGES: tuple[Stage, ...] = ("sequential", "interpolation")


class Pattern(AttentionBackend):
    """A pattern given as a function."""

    def __init__(self, function: Callable[[Position, Position, int], Tensor]) -> None:
        super().__init__(None)
        self.function = function

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        return self.function(query, key, layer)


def in_place(query: Position, key: Position, layer: int) -> Tensor:
    near = (query.row == key.row) & (query.frame - key.frame < 2)
    near |= (query.column == key.column) & (query.frame == key.frame)
    near &= (query.row - key.row < 2).logical_and(query.column >= 0)
    return near


def scattered(query: Position, key: Position, layer: int) -> Tensor:
    axes = (*query, *key)
    return sum(axis * factor for axis, factor in zip(axes, (7, 13, 29, 31, 37, 41), strict=True)) % 3 == layer % 3  # type: ignore[return-value]


PATTERNS: dict[str, Callable[[Position, Position, int], Tensor]] = {
    "a ball": lambda q, k, layer: sum((a - b) ** 2 for a, b in zip(q, k, strict=True)) < 4,  # type: ignore[arg-type, return-value]
    "a cone": lambda q, k, layer: (q.row - k.row).abs() + (q.frame - k.frame).abs() < 2,
    "a cross": lambda q, k, layer: ((q.row == k.row) | (q.column == k.column)) & (q.frame - k.frame < 2),
    "negated": lambda q, k, layer: ~((q.row == k.row) & (q.frame != k.frame)) & ~(q.column < k.column),
    "by where": lambda q, k, layer: torch.where(
        (q.row == k.row) & (q.frame == k.frame), q.column == k.column, q.row > 0
    ),
    "nothing before": lambda q, k, layer: (q.frame == k.frame) & (q.row == k.row),
    "in place": in_place,
    "scattered": scattered,
}


def check(backend: AttentionBackend, grid: Grid, stage: Stage, layer: int, query_block: int, key_block: int) -> None:
    """All that is derived from a mask says what the mask says."""
    mask = Visibility(backend.pattern, grid, given_frames(stage, grid.frames), layer)
    whole, found = mask.dense(), compact_mask(mask)
    assert torch.equal(found.dense(), whole)
    assert found.pairs == whole.sum()
    for raster in (True, False):
        blocks = block_map(found, query_block, key_block, raster=raster)
        assert torch.equal(blocks.order.sort().values, torch.arange(grid.tokens, dtype=torch.int32))
        for transposed in (False, True):
            assert torch.equal(drawn(blocks, grid, transposed), whole)
    for offset in (0, 5):
        expected = torch.nn.functional.pad(whole, (offset, 0))
        counts = raster_counts(found, key_block, offset)
        for (row, column), count in zip(product(*map(range, counts.shape)), counts.flatten().tolist(), strict=True):
            rows, columns = (slice(i * key_block, (i + 1) * key_block) for i in (row, column))
            assert count == expected[rows, columns].sum()


def drawn(blocks: BlockMap, grid: Grid, transposed: bool) -> Tensor:
    """The mask that a block map holds, from its rows or from its columns."""
    lists = blocks.columns if transposed else blocks.rows
    mask = torch.zeros(
        (len(blocks.rows.starts) - 1) * blocks.query_block,
        (len(blocks.columns.starts) - 1) * blocks.key_block,
        dtype=torch.bool,
    )
    tiles = mask.unflatten(0, (-1, blocks.query_block)).unflatten(2, (-1, blocks.key_block)).transpose(1, 2)
    for block, (start, stop) in enumerate(zip(lists.starts, lists.starts[1:], strict=False)):
        entries = range(int(start), int(stop))
        assert [bool(lists.pattern[e] < 0) for e in entries] == [i < lists.fulls[block] for i in range(len(entries))]
        for entry in entries:
            other, pattern = int(lists.index[entry]), int(lists.pattern[entry])
            words = torch.full((blocks.query_block,), -1) if pattern < 0 else blocks.bits[pattern]
            tile = ((words[:, None] >> torch.arange(blocks.key_block)) & 1).bool()
            assert tile.any()
            assert tile.all() == (pattern < 0)
            tiles[(other, block) if transposed else (block, other)] = tile
    assert not mask[grid.tokens :].any()
    assert not mask[:, grid.tokens :].any()
    order = blocks.order.long()
    back = torch.zeros(grid.tokens, grid.tokens, dtype=torch.bool)
    back[order[:, None], order] = mask[: grid.tokens, : grid.tokens]
    return back


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("at_once", [True, False], ids=["all frames", "pair by pair"])
def test_any_pattern_is_held_exactly(name: str, stage: Stage, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:
        monkeypatch.setattr(compact, "_LARGEST", 0)
    for grid, layer in product([Grid(3, 4, 5), Grid(5, 3, 4), Grid(3, 1, 1)], [0, 1]):
        check(Pattern(PATTERNS[name]), grid, stage, layer, 32, 16)


@settings(max_examples=30, deadline=None)
@given(
    backend=st.one_of(
        st.builds(
            lambda window, frames: SwinAR(SwinAR.Config(window=window, frames=frames)),
            st.lists(st.integers(1, 12), min_size=2, max_size=2),
            st.none() | st.integers(1, 5),
        ),
        st.builds(
            lambda extent: Local3D(Local3D.Config(extent=extent)), st.lists(st.integers(1, 9), min_size=3, max_size=3)
        ),
        st.sampled_from([Pattern(function) for function in PATTERNS.values()]),
    ),
    grid=st.builds(Grid, st.sampled_from([1, 2, 3, 5, 7]), st.integers(1, 12), st.integers(1, 12)),
    stage=st.sampled_from(STAGES),
    layer=st.integers(0, 3),
    blocks=st.sampled_from([(64, 64), (128, 64), (32, 16), (16, 32)]),
)
def test_larger_masks_are_held_exactly(
    backend: AttentionBackend, grid: Grid, stage: Stage, layer: int, blocks: tuple[int, int]
) -> None:
    if grid.frames < 3 or grid.frames % 2 == 0:
        stage = "sequential"
    check(backend, grid, stage, layer, *blocks)


def test_equal_masks_are_equal_and_share_what_is_made_from_them() -> None:
    masks = [compact_mask(Visibility(SwinAR().pattern, Grid(3, 20, 20), (False,) * 3, layer)) for layer in (0, 1, 2)]
    assert masks[0] == masks[2] != masks[1]
    assert block_map(masks[0]) is block_map(masks[2])


def test_a_conjunction_of_near_in_time_and_near_in_space_is_never_multiplied_out() -> None:
    found = compact_mask(Visibility(Local3D().pattern, Grid(16, 32, 32), (False,) * 16, 0))
    assert found.spaces.shape == (2, 1024, 1024)
    assert found.kinds.unique().tolist() == [-1, 0, 1]


def test_windows_in_the_order_of_the_block_map_fill_its_blocks() -> None:
    mask = compact_mask(Visibility(SwinAR().pattern, Grid(5, 20, 20), (False,) * 5, 0))
    chosen, raster = block_map(mask), block_map(mask, raster=True)
    assert raster.order.tolist() == list(range(2000))
    assert chosen.occupancy < 0.5 * raster.occupancy
    assert chosen.full > 0
    assert len(chosen.bits) < chosen.visited - chosen.full


def test_a_key_block_wider_than_a_word_is_refused() -> None:
    mask = compact_mask(Visibility(Naive().pattern, Grid(1, 4, 4), (False,), 0))
    with pytest.raises(ValueError, match="64"):
        block_map(mask, 64, 128)
