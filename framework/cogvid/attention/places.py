"""Rows of the places of frames, brought together for tiles and put back.

Where tiles are rectangles, and on a CPU, rows are copied as they lie, many times faster than one by one; else they are
looked up. Shapes: B batch, H heads, F frames, N places of a frame, K channels; G tiles of P places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cogvid.interfaces.grid import Grid

# Rows and columns of a frame.
Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Places:
    """The places of tiles.

    Attributes:
        index: int64 (G, P).
        sides: rows and columns of a frame.
        boxes: the same, tile by tile; None where they are looked up.
    """

    index: Tensor
    sides: tuple[int, int]
    boxes: tuple[Box, ...] | None

    @classmethod
    def of(cls, index: Tensor, grid: Grid, device: torch.device) -> Places:
        """Of an index (G, P) into a frame of the grid."""
        boxes = [_box(tile, grid.width) for tile in index.tolist()] if device.type == "cpu" else [None]
        found = tuple(box for box in boxes if box is not None)
        return cls(index.to(device), (grid.height, grid.width), found if len(found) == len(index) else None)

    @property
    def shape(self) -> torch.Size:
        """(G, P)."""
        return self.index.shape

    def part(self, numbers: slice) -> Places:
        """Those of some of the tiles."""
        return Places(self.index[numbers], self.sides, self.boxes and self.boxes[numbers])

    def gather(self, x: Tensor, tiles: Tensor) -> None:
        """Copy rows of (B, H, F, N, K) to tiles (B, H, G, F, P, K)."""
        if self.boxes is None:
            tiles.copy_(x.index_select(3, self.index.flatten()).unflatten(3, self.shape).transpose(2, 3))
            return
        for own, box in self._boxes(x, tiles):
            own.copy_(box)

    def put(self, tiles: Tensor, x: Tensor) -> None:
        """Copy tiles to rows, the other way; no place is in two of them."""
        if self.boxes is None:
            x.index_copy_(3, self.index.flatten(), tiles.transpose(2, 3).flatten(3, 4))
            return
        for own, box in self._boxes(x, tiles):
            box.copy_(own)

    def add(self, tiles: Tensor, x: Tensor) -> None:
        """Add tiles to rows, one tile after the other."""
        if self.boxes is None:
            x.index_add_(3, self.index.flatten(), tiles.transpose(2, 3).flatten(3, 4))
            return
        for own, box in self._boxes(x, tiles):
            box.add_(own)

    def _boxes(self, x: Tensor, tiles: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each tile what is in `tiles` and what is in `x`, both (B, H, F, rows, columns, K)."""
        assert self.boxes is not None
        frames = x.unflatten(3, self.sides)
        pairs = []
        for number, (rows, columns) in enumerate(self.boxes):
            box = frames[:, :, :, rows, columns]
            pairs.append((tiles[:, :, number].unflatten(3, box.shape[3:5]), box))
        return pairs


def _box(places: list[int], width: int) -> Box | None:
    """The rectangle that places are, in raster order; None if they are none."""
    if not places:
        return slice(0), slice(0)
    top, left = divmod(places[0], width)
    bottom, right = divmod(places[-1], width)
    whole = [row * width + column for row in range(top, bottom + 1) for column in range(left, right + 1)]
    return (slice(top, bottom + 1), slice(left, right + 1)) if whole == places else None
