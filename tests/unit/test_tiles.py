"""Tiled attention against the dense reference: any pattern, any grid, outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cogvid import AttentionBackend, Grid, Position
from cogvid.attention.dense import masked_attention
from cogvid.attention.mask import Stage, Visibility, given_frames
from cogvid.attention.tiles import TileMap, tile_labels, tile_map, tiled_attention
from cogvid_plugins.local3d import Local3D
from cogvid_plugins.naive import Naive
from cogvid_plugins.swin_ar import SwinAR

CPU = torch.device("cpu")
TEXT = 3


class Scattered(AttentionBackend):
    """Neighbours by a hash of the two places: nothing that tiles could be cut along."""

    def __init__(self, seed: int) -> None:
        super().__init__(None)
        self.seed = seed

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """About one in three, and the token itself."""
        mixed = sum(axis * factor for axis, factor in zip((*query, *key), (7, 13, 29, 31, 37, 41), strict=True))
        same = (query.frame == key.frame) & (query.row == key.row) & (query.column == key.column)
        return same | ((mixed + self.seed + layer) % 3 == 0)


BACKENDS: dict[str, AttentionBackend] = {
    "naive": Naive(),
    "local3d": Local3D(Local3D.Config(extent=[2, 3, 2])),
    "local3d with a bias": Local3D(Local3D.Config(extent=[3, 2, 2], bias=True)),
    "swin_ar": SwinAR(SwinAR.Config(window=[2, 3])),
    "swin_ar with a bias": SwinAR(SwinAR.Config(window=[3, 2], frames=2, bias=True)),
    "scattered": Scattered(5),
}


def tiled(backend: AttentionBackend, grid: Grid, stage: Stage, layer: int) -> tuple[TileMap, Tensor]:
    visibility = Visibility(backend, grid, given_frames(stage, grid.frames), layer)
    return tile_map(visibility.rows, grid, tile_labels(backend, grid, layer, CPU)), visibility.dense()


def reference(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, text: Tensor, bias: Tensor | None) -> Tensor:
    frames = mask.expand(len(q), 1, -1, -1)
    visible = torch.cat([text[:, None, None].expand(-1, -1, len(mask), -1), frames], dim=-1)
    return masked_attention(q[:, :, TEXT:], k, v, visible, bias)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("grid", [Grid(3, 4, 6), Grid(5, 3, 5), Grid(3, 1, 7)], ids=["3x4x6", "5x3x5", "3x1x7"])
@pytest.mark.parametrize("layer", [0, 1])
def test_outputs_and_gradients_are_those_of_the_dense_computation(
    backend: AttentionBackend, stage: Stage, grid: Grid, layer: int
) -> None:
    torch.manual_seed(0)
    tiles, mask = tiled(backend, grid, stage, layer)
    q, k, v = (torch.randn(2, 2, TEXT + grid.tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    text = torch.tensor([[False, True, True], [True, True, True]])
    bias, scores = backend.bias(heads=2), None
    parameters: list[Any] = [q, k, v]
    if bias is not None:
        nn.init.normal_(bias.double().table)
        parameters.append(bias.table)
        query, key = (Position(*(axis.unsqueeze(d) for axis in grid.positions())) for d in (1, 0))
        scores = nn.functional.pad(bias(query, key), (TEXT, 0))
    weights = torch.randn(2, 2, grid.tokens, 8, dtype=torch.float64)
    results = []
    for output in (
        tiled_attention(q, k, v, tiles, grid, text, bias),
        reference(q, k, v, mask, text, scores),
    ):
        results.append([output, *torch.autograd.grad((output * weights).sum(), parameters)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    backend=st.one_of(
        st.builds(
            lambda window, frames: SwinAR(SwinAR.Config(window=window, frames=frames)),
            st.lists(st.integers(1, 6), min_size=2, max_size=2),
            st.none() | st.integers(1, 3),
        ),
        st.builds(
            lambda extent: Local3D(Local3D.Config(extent=extent)), st.lists(st.integers(1, 5), min_size=3, max_size=3)
        ),
        st.builds(Scattered, st.integers(0, 2)),
    ),
    grid=st.builds(Grid, st.sampled_from([1, 2, 3, 5]), st.integers(1, 6), st.integers(1, 6)),
    stage=st.sampled_from(["sequential", "interpolation"]),
    layer=st.integers(0, 1),
)
def test_tiles_hold_the_mask_and_nothing_else(backend: AttentionBackend, grid: Grid, stage: Stage, layer: int) -> None:
    if stage == "interpolation" and grid.frames not in (3, 5):
        stage = "sequential"
    tiles, mask = tiled(backend, grid, stage, layer)
    held = torch.zeros_like(mask, dtype=torch.int)
    for bucket in tiles.buckets:
        for queries, keys, visible in zip(bucket.queries, bucket.keys, bucket.visible, strict=True):
            held.index_put_((queries[:, None], keys[None, :]), visible.int(), accumulate=True)
    assert torch.equal(held, mask.int())
    queries = torch.cat([bucket.queries.flatten() for bucket in tiles.buckets])
    assert torch.equal(queries[tiles.places], torch.arange(grid.tokens))


@pytest.mark.parametrize(("layer", "windows"), [(0, 4), (1, 9)])
def test_the_tiles_of_a_window_attention_are_its_windows(layer: int, windows: int) -> None:
    backend, grid = SwinAR(SwinAR.Config(window=[10, 10])), Grid(5, 20, 20)
    labels = tile_labels(backend, grid, layer, CPU)
    assert len(labels.unique()) == windows
    tiles, _ = tiled(backend, grid, "sequential", layer)
    # A frame sees the frames up to itself: 1 + 2 + 3 + 4 + 5 times the pairs of a window.
    pairs = 15 * int(labels.bincount().square().sum())
    assert pairs <= sum(bucket.visible.numel() for bucket in tiles.buckets) <= 1.05 * pairs


def test_tiles_of_a_local_pattern_cost_a_fraction_of_the_dense_mask() -> None:
    tiles, mask = tiled(Local3D(Local3D.Config(extent=[3, 5, 5])), Grid(5, 20, 20), "sequential", 0)
    assert sum(bucket.visible.numel() for bucket in tiles.buckets) < 0.2 * mask.numel()
