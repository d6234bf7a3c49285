"""Every window, shift and extent on every small grid, in both stages: what each way of computing sees is the mask.

COGVID_SIDES=6 says up to which side; 5 by default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch import Tensor

from cogvid import AttentionBackend, Grid
from cogvid.attention.blocks import BlockMap, block_map
from cogvid.attention.compact import compact_mask
from cogvid.attention.layout import TileLayout, tile_layout
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
SIDES = range(1, 1 + int(os.environ.get("COGVID_SIDES", "5")))
CASES: list[tuple[int, Stage]] = [(1, "sequential"), (2, "sequential"), (3, "sequential"), (3, "interpolation")]


def backends(frames: int, height: int, width: int, layer: int) -> Iterator[AttentionBackend]:
    """All that differ on a grid: a window of the side, or of twice the side where it is shifted, holds all of it."""
    yield Naive()
    most = 2 if layer else 1
    for rows, columns in product(range(1, most * height + 1), range(1, most * width + 1)):
        for back in (None, *range(1, frames)):
            yield SwinAR(SwinAR.Config(window=[rows, columns], frames=back))
    if layer == 0:
        for extent in product(range(1, frames + 1), range(1, height + 1), range(1, width + 1)):
            yield Local3D(Local3D.Config(extent=list(extent)))


def seen_by_tiles(layout: TileLayout) -> Tensor:
    """How often each pair is computed and not hidden, (tokens, tokens)."""
    n, frames = layout.grid.frame_tokens, layout.grid.frames
    seen = torch.zeros(frames, n, frames, n, dtype=torch.int)
    for tiles, group in product(layout.tiles, layout.seen):
        count, queries = tiles.queries.shape
        every = torch.ones(count, queries, tiles.keys.shape[1], dtype=torch.int)
        shown = [every if hidden is None else (~hidden).int() for hidden in tiles.hidden]
        assert [[p for run in runs for p in range(*run)] for runs in group.runs] == group.keys.tolist()
        for query_frame, keys in zip(group.frames.tolist(), group.keys, strict=True):
            for key_frame, kind in zip(layout.frames[keys].tolist(), group.kinds, strict=True):
                part = seen[query_frame, :, key_frame]
                places = tiles.queries.index[:, :, None], tiles.keys.index[:, None]
                part.index_put_(places, shown[kind], accumulate=True)
    return seen.view(frames * n, frames * n)


def seen_by_blocks(blocks: BlockMap, tokens: int, transposed: bool) -> Tensor:
    """How often each pair is in a visited block and not masked there, (tokens, tokens)."""
    lists = blocks.columns if transposed else blocks.rows
    count = len(lists.starts) - 1
    own = torch.arange(count).repeat_interleave(lists.starts.diff())
    q, k = (lists.index.long(), own) if transposed else (own, lists.index.long())
    full = torch.full((1, blocks.query_block), -1)
    words = torch.cat([blocks.bits, full])[lists.pattern.long()]
    inside = ((words[:, :, None] >> torch.arange(blocks.key_block)) & 1).int()
    rows, columns = (len(lists.starts) - 1 for lists in (blocks.rows, blocks.columns))
    seen = torch.zeros(rows, blocks.query_block, columns, blocks.key_block, dtype=torch.int)
    seen.transpose(1, 2).index_put_((q, k), inside, accumulate=True)
    seen = seen.view(rows * blocks.query_block, columns * blocks.key_block)
    assert not seen[tokens:].any()
    assert not seen[:, tokens:].any()
    order = blocks.order.argsort()
    return seen[order][:, order]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("frames", "stage"), CASES, ids=str)
def test_no_way_of_computing_sees_a_pair_more_or_less_than_the_mask(frames: int, stage: Stage, layer: int) -> None:
    checked = set()
    for height, width in product(SIDES, SIDES):
        grid = Grid(frames, height, width)
        for backend in backends(frames, height, width, layer):
            mask = Visibility(backend.pattern, grid, given_frames(stage, frames), layer)
            compact, visible = compact_mask(mask), mask.dense()
            named = (backend, backend.config, grid)
            assert torch.equal(compact.dense(), visible), named
            if compact in checked:
                continue
            checked.add(compact)
            blocks = block_map(compact, 32, 16)
            assert torch.equal(seen_by_tiles(tile_layout(compact, CPU)), visible.int()), named
            assert torch.equal(seen_by_blocks(blocks, grid.tokens, transposed=False), visible.int()), named
            assert torch.equal(seen_by_blocks(blocks, grid.tokens, transposed=True), visible.int()), named
    assert len(checked) > 12 * len(SIDES) ** 2
