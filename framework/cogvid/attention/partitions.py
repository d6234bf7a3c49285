"""Partitions of a frame's places into tiles, as labels: int64 (N,), numbered from 0 without gaps."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.interfaces.grid import Grid


def rectangles(grid: Grid, height: int, width: int) -> Tensor:
    """Tiles of some rows and columns, smaller at the far borders."""
    axes = Grid(1, grid.height, grid.width).positions()
    across = -(-grid.width // width)
    return axes.row // height * across + axes.column // width


def same_neighbours(near: Tensor) -> Tensor:
    """The places that see exactly the same places: the windows of a window attention, wherever they are shifted to.

    Args:
        near: bool (N, N), who sees whom.
    """
    seen: dict[bytes, int] = {}
    return torch.tensor([seen.setdefault(row.tobytes(), len(seen)) for row in near.numpy()])
