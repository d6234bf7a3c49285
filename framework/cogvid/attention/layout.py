"""The layout of a mask over tiles of a frame: which places share keys, and which frames see which alike.

Shapes as in `cogvid.interfaces.grid`, and G tiles of a group, Q queries and S keys of a tile in one frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from cogvid.attention.compact import CompactMask
from cogvid.attention.partitions import rectangles, same_neighbours
from cogvid.attention.places import Places
from cogvid.interfaces.grid import Grid

# Copying a key and its value to a tile, and their gradients back, takes as long as scoring it for so many queries.
_GATHER = 32


@dataclass(frozen=True, eq=False)
class TileGroup:
    """Tiles with equally many queries and keys.

    Attributes:
        queries: places in a frame, (G, Q).
        keys: places in a frame that a tile sees in some frame, (G, S).
        hidden: for each of the mask's `spaces`, what of the keys is invisible, bool (G, Q, S); None for nothing.
    """

    queries: Places
    keys: Places
    hidden: tuple[Tensor | None, ...]


@dataclass(frozen=True, eq=False)
class FrameGroup:
    """Frames that see equally many frames, in the same way.

    Attributes:
        frames: of the queries, int64 (n,).
        keys: for each of them the frames it sees, as places in `TileLayout.frames`; int64 (n, m).
        runs: the same, for each of them as (first place, behind the last) of places that follow each other.
        kinds: which of the mask's `spaces` holds between a frame and each of its m.
        first: the first frame, where the others follow it; None where they do not.
    """

    frames: Tensor
    keys: Tensor
    runs: tuple[tuple[tuple[int, int], ...], ...]
    kinds: tuple[int, ...]
    first: int | None


@dataclass(frozen=True, eq=False)
class TileLayout:
    """A mask over tiles.

    Attributes:
        grid: of the mask.
        tiles: every place of a frame is a query of one of them, once.
        frames: the order of the frames among a tile's keys, int64 (F,).
        sorted: whether that is their own.
        seen: every frame is in one of them, once.
    """

    grid: Grid
    tiles: tuple[TileGroup, ...]
    frames: Tensor
    sorted: bool
    seen: tuple[FrameGroup, ...]

    @cached_property
    def pairs(self) -> int:
        """Pairs that are computed, those with the text not counted."""
        frames = sum(group.keys.numel() for group in self.seen)
        return frames * sum(group.queries.shape.numel() * group.keys.shape[1] for group in self.tiles)


@lru_cache(maxsize=64)
def tile_layout(mask: CompactMask, device: torch.device) -> TileLayout:
    """The cheapest layout of a mask, on a device; equal masks share one."""
    # Frames that many others see come first: what a frame sees is then mostly one piece.
    order = (mask.kinds < 0).sum(0).argsort(stable=True)
    frames: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for frame, kinds in enumerate(mask.kinds[:, order].tolist()):
        seen = [(place, kind) for place, kind in enumerate(kinds) if kind >= 0]
        frames.setdefault(tuple(kind for _, kind in seen), []).append((frame, [place for place, _ in seen]))
    labels = tile_labels(mask)
    near = mask.spaces.any(0)
    alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    for tile in _members(labels):
        keys = near[tile].any(0).nonzero()[:, 0]
        alike.setdefault((len(tile), len(keys)), []).append((tile, keys))
    return TileLayout(
        mask.grid,
        tuple(_group(mask, members, device) for members in alike.values()),
        order.to(device),
        order.tolist() == list(range(mask.grid.frames)),
        tuple(
            FrameGroup(
                torch.tensor([frame for frame, _ in members], device=device),
                torch.tensor([places for _, places in members], dtype=torch.long, device=device),
                tuple(_runs(places) for _, places in members),
                kinds,
                _first([frame for frame, _ in members]),
            )
            for kinds, members in frames.items()
        ),
    )


def _runs(places: list[int]) -> tuple[tuple[int, int], ...]:
    starts = [place for place in places if place - 1 not in places]
    stops = [place + 1 for place in places if place + 1 not in places]
    return tuple(zip(starts, stops, strict=True))


def _first(frames: list[int]) -> int | None:
    return frames[0] if frames == list(range(frames[0], frames[0] + len(frames))) else None


def _group(mask: CompactMask, members: list[tuple[Tensor, Tensor]], device: torch.device) -> TileGroup:
    queries, keys = (torch.stack(places) for places in zip(*members, strict=True))
    visible = [space[queries[:, :, None], keys[:, None, :]] for space in mask.spaces]
    hidden = tuple(None if seen.all() else ~seen.to(device) for seen in visible)
    return TileGroup(Places.of(queries, mask.grid, device), Places.of(keys, mask.grid, device), hidden)


def _members(labels: Tensor) -> tuple[Tensor, ...]:
    """The places of each tile, in order."""
    return labels.argsort(stable=True).split(labels.bincount().tolist())


def tile_labels(mask: CompactMask) -> Tensor:
    """The partition of a frame under which a mask costs least, int64 (N,).

    Tried are rectangles, and the places with exactly the same neighbours.
    """
    grid, near = mask.grid, mask.spaces.any(0)
    sides = [sorted({1 << i for i in range(side.bit_length())} | {side}) for side in (grid.height, grid.width)]
    shapes = [(height, width) for height, width in product(*sides) if 16 <= height * width <= 1024]
    partitions = [rectangles(grid, height, width) for height, width in shapes or [(grid.height, grid.width)]]
    return min([*partitions, same_neighbours(near)], key=lambda labels: _cost(near, labels))


def _cost(near: Tensor, labels: Tensor) -> int:
    count = labels.bincount()
    starts = (count.cumsum(0) - count).numpy()
    keys = np.logical_or.reduceat(near[labels.argsort(stable=True)].numpy(), starts, axis=0).sum(1)
    return int((torch.from_numpy(keys) * (count + _GATHER)).sum())
