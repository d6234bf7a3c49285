"""Tiled attention against the dense reference: any pattern, any grid, outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvid import AttentionBackend, Grid, Position
from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import DenseAttention
from cogvid.attention.layout import tile_labels
from cogvid.attention.prepare import prepare_attention
from cogvid.attention.tiles import TiledAttention, _Piece
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

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


class TextAlone(AttentionBackend):
    """No frame token sees another one."""

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """Nothing."""
        return query.frame + key.frame + query.row + key.row + query.column + key.column < 0


BACKENDS: dict[str, AttentionBackend] = {
    "naive": Naive(),
    "local3d": Local3D(Local3D.Config(extent=[2, 2, 3])),
    "local3d with a bias": Local3D(Local3D.Config(extent=[3, 2, 2], bias=True)),
    "swin_ar": SwinAR(SwinAR.Config(window=[2, 3])),
    "swin_ar with a bias": SwinAR(SwinAR.Config(window=[3, 2], frames=2, bias=True)),
    "scattered": Scattered(5),
    "text alone": TextAlone(),
}


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("grid", [Grid(3, 4, 6), Grid(5, 3, 5), Grid(3, 1, 7)], ids=["3x4x6", "5x3x5", "3x1x7"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("chunk", [1, 1 << 19], ids=["tile by tile", "all at once"])
def test_outputs_and_gradients_are_those_of_the_dense_computation(
    backend: AttentionBackend, stage: Stage, grid: Grid, layer: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogvid.attention.tiles._SCORES", chunk)
    torch.manual_seed(0)
    mask = Visibility(backend.pattern, grid, given_frames(stage, grid.frames), layer)
    q, k, v = (torch.randn(2, 2, TEXT + grid.tokens, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    text = torch.tensor([[False, True, True], [True, True, True]])
    bias = backend.bias(heads=2)
    parameters: list[Any] = [q, k, v]
    if bias is not None:
        nn.init.normal_(bias.double().table)
        parameters.append(bias.table)
    weights = torch.randn(2, 2, grid.tokens, 8, dtype=torch.float64)
    results = []
    for attention in (TiledAttention(compact_mask(mask), CPU), DenseAttention(mask, CPU)):
        output = attention(q[:, :, TEXT:], k, v, text, bias)
        results.append([output, *torch.autograd.grad((output * weights).sum(), parameters)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layer", "windows"), [(0, 4), (1, 9)])
def test_the_tiles_of_a_window_attention_are_its_windows(layer: int, windows: int) -> None:
    backend, grid = SwinAR(SwinAR.Config(window=[10, 10])), Grid(5, 20, 20)
    mask = compact_mask(Visibility(backend.pattern, grid, given_frames("sequential", 5), layer))
    labels = tile_labels(mask)
    assert len(labels.unique()) == windows
    # A frame sees the frames up to itself: 1 + 2 + 3 + 4 + 5 times the pairs of a window.
    assert TiledAttention(mask, CPU).pairs == 15 * int(labels.bincount().square().sum())


def test_tiles_of_a_local_pattern_cost_a_fraction_of_the_dense_mask() -> None:
    backend, grid = Local3D(Local3D.Config(extent=[3, 5, 5])), Grid(5, 20, 20)
    mask = compact_mask(Visibility(backend.pattern, grid, given_frames("sequential", 5), 0))
    assert TiledAttention(mask, CPU).pairs < 0.2 * grid.tokens**2


def test_nothing_but_the_inputs_is_kept_for_the_backward() -> None:
    backend, grid = Local3D(Local3D.Config(extent=[2, 2, 2])), Grid(5, 8, 8)
    attention = prepare_attention(backend, Visibility(backend.pattern, grid, given_frames("sequential", 5), 0), CPU)
    q, k, v = (torch.randn(1, 2, TEXT + grid.tokens, 8, requires_grad=True) for _ in range(3))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention(q[:, :, TEXT:], k, v, torch.ones(1, TEXT, dtype=torch.bool), None)
    assert max(x.numel() for x in kept) <= q.numel()
    assert len(kept) <= 5


@pytest.mark.parametrize("biased", [False, True])
def test_half_precision_by_autocast_trains_close_to_single(biased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a GPU a softmax is wider under autocast; on a CPU it is not.
    softmax = _Piece.attention
    monkeypatch.setattr(_Piece, "attention", lambda piece: softmax(piece).float())
    backend, grid = SwinAR(SwinAR.Config(window=[4, 4], bias=biased)), Grid(3, 8, 8)
    attention = prepare_attention(backend, Visibility(backend.pattern, grid, given_frames("sequential", 3), 0), CPU)
    torch.manual_seed(0)
    bias, project = backend.bias(heads=2), nn.Linear(64, 3 * 64)
    x, text = torch.randn(1, TEXT + grid.tokens, 64), torch.ones(1, TEXT, dtype=torch.bool)
    results = []
    for half in (False, True):
        project.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            q, k, v = project(x).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
            output = attention(q[:, :, TEXT:], k, v, text, bias)
            loss = output.float().square().sum()
        loss.backward()
        assert project.weight.grad is not None
        results.append((output.detach().float(), project.weight.grad.clone()))
    for single, halved in zip(*results, strict=True):
        assert (halved - single).norm() < 0.02 * single.norm()
