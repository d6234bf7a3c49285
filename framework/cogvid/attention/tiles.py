"""Attention over tiles: queries that lie together share the keys that any of them sees.

Dense attention pays for every pair; a tile pays for its queries times the keys that one of them sees, so the cost
of a local pattern follows the pairs it makes visible. Which tiles: measured on the pattern itself, never declared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from cogvid.attention.dense import masked_attention
from cogvid.attention.mask import Visibility
from cogvid.grid import Grid, Position

# Copying a key and its value to a tile, and their gradients back, takes as long as scoring it for so many queries.
_GATHER = 48
# A tile with up to one in so many keys fewer than another shares its bucket, padded: fewer, larger calls.
_PADDING = 8


@dataclass(frozen=True)
class Bucket:
    """Tiles of one shape.

    Attributes:
        queries: frame slots, int64 (G, Q).
        keys: frame slots, int64 (G, S); a tile that sees fewer has one twice, the second time invisible.
        visible: bool (G, Q, S).
    """

    queries: Tensor
    keys: Tensor
    visible: Tensor


@dataclass(frozen=True)
class TileMap:
    """All queries of a sequence in buckets.

    Attributes:
        buckets: every frame slot is a query of one of them, once.
        places: where in the buckets' queries, one after the other, each slot stands; int64 (tokens,).
    """

    buckets: tuple[Bucket, ...]
    places: Tensor


def tile_map(rows: Callable[[Tensor], Tensor], grid: Grid, labels: Tensor) -> TileMap:
    """Lay out a mask.

    Args:
        rows: of the mask: slots (Q,) to bool (Q, tokens).
        grid: of the sequence.
        labels: which tile of its frame each place belongs to, int64 (height * width,).
    """
    n = grid.frame_tokens
    tiles = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    groups: dict[tuple[int, int], list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    for frame in range(grid.frames):
        slots = torch.arange(frame * n, (frame + 1) * n, device=labels.device)
        mask = rows(slots)
        for tile in tiles:
            own = mask[tile]
            keys = own.any(0).nonzero()[:, 0]
            groups[len(tile), _padded(len(keys))].append((slots[tile], keys, own[:, keys]))
    buckets = tuple(_bucket(members, size) for (_, size), members in groups.items())
    queries = torch.cat([bucket.queries.flatten() for bucket in buckets])
    return TileMap(buckets, queries.argsort())


def _padded(keys: int) -> int:
    step = max(1 << max(keys.bit_length() - 1, 0), _PADDING) // _PADDING
    return -(-keys // step) * step


def _bucket(members: list[tuple[Tensor, Tensor, Tensor]], size: int) -> Bucket:
    keys, visible = [], []
    for _, own_keys, own_visible in members:
        missing = size - len(own_keys)
        keys.append(torch.cat([own_keys, own_keys[:1].expand(missing)]))
        visible.append(nn.functional.pad(own_visible, (0, missing), value=False))
    return Bucket(torch.stack([queries for queries, _, _ in members]), torch.stack(keys), torch.stack(visible))


def tile_labels(backend: Any, grid: Grid, layer: int, device: torch.device) -> Tensor:
    """The partition of a frame under which the pattern of a layer costs least, int64 (height * width,).

    Tried are rectangles, and the places with exactly the same neighbours, which are the windows of a window
    attention wherever they are shifted to.
    """
    axes = Grid(1, grid.height, grid.width).positions(device)
    query, key = (Position(*(axis.unsqueeze(d) for axis in axes)) for d in (1, 0))
    near = backend.pattern(query, key, layer).expand(len(axes.row), -1).double()
    return min(_partitions(near, grid, axes), key=lambda labels: _cost(near, labels))


def _partitions(near: Tensor, grid: Grid, axes: Position) -> list[Tensor]:
    sides = [sorted({1 << i for i in range(side.bit_length())} | {side}) for side in (grid.height, grid.width)]
    rectangles = [
        (axes.row // height * grid.width + axes.column // width).unique(return_inverse=True)[1]
        for height, width in product(*sides)
    ]
    # Equal rows have equal sums of random numbers.
    numbers = torch.rand(near.shape[1], dtype=near.dtype, generator=torch.Generator().manual_seed(0))
    return [*rectangles, (near @ numbers.to(near.device)).unique(return_inverse=True)[1]]


def _cost(near: Tensor, labels: Tensor) -> float:
    tiles = int(labels.max()) + 1
    keys = near.new_zeros(tiles, near.shape[1]).index_add_(0, labels, near).gt(0).sum(1)
    return float((keys * (labels.bincount(minlength=tiles) + _GATHER)).sum())


def tiled_attention(
    q: Tensor, k: Tensor, v: Tensor, tiles: TileMap, grid: Grid, text_mask: Tensor, bias: nn.Module | None
) -> Tensor:
    """Attention of the frame slots to the unpadded text and to the frame slots they see.

    Args:
        q, k, v: (B, H, T + tokens, K), the text first.
        tiles: who sees whom among the frame slots.
        grid: of the frame slots.
        text_mask: bool (B, T).
        bias: adds to the scores of frame keys, or None.

    Returns:
        (B, H, tokens, K).
    """
    text = text_mask.shape[1]
    outputs = []
    for bucket in tiles.buckets:
        (count, queries), keys = bucket.queries.shape, bucket.keys
        text_keys = torch.arange(text, device=keys.device).expand(count, -1)
        seen = torch.cat([text_keys, keys + text], dim=1)
        # (B, G, H, Q or T + S, K)
        own = q.index_select(2, (bucket.queries + text).flatten()).unflatten(2, (count, queries)).transpose(1, 2)
        k_seen, v_seen = (x.index_select(2, seen.flatten()).unflatten(2, seen.shape).transpose(1, 2) for x in (k, v))
        visible = torch.cat(
            [
                text_mask[:, None, None, None].expand(-1, count, -1, queries, -1),
                bucket.visible[None, :, None].expand(len(q), -1, -1, -1, -1),
            ],
            dim=-1,
        )
        scores = None
        if bias is not None:
            positions = grid.position(bucket.queries[:, :, None]), grid.position(keys[:, None, :])
            # Text keys are not on the grid: their scores stay as they are.
            scores = nn.functional.pad(bias(*positions), (text, 0)).transpose(0, 1)[None]
        outputs.append(masked_attention(own, k_seen, v_seen, visible, scores).transpose(1, 2).flatten(2, 3))
    return torch.cat(outputs, dim=2).index_select(2, tiles.places)


class TiledAttention:
    def __init__(self, mask: Visibility, device: torch.device) -> None:
        self.mask = mask
        labels = tile_labels(mask.backend, mask.grid, mask.layer, device)
        self.tiles = tile_map(mask.rows, mask.grid, labels)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        text = text_mask.shape[1]
        q = nn.functional.pad(q, (0, 0, text, 0))
        return tiled_attention(q, k, v, self.tiles, self.mask.grid, text_mask, bias)
