"""Attention over tiles: places that lie together share the keys that any of them sees, frame by frame.

Dense attention pays for every pair; a tile of one frame pays for its queries times the keys that one of them sees,
so the cost of a local pattern follows the pairs it makes visible. Which tiles: measured on the mask, never declared.

Shapes as in `cogvid.interfaces.grid`, and G tiles of a group, Q queries and S keys of a tile in one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cogvid.attention.bias import bias_scores
from cogvid.attention.compact import CompactMask
from cogvid.attention.partitions import rectangles, same_neighbours
from cogvid.interfaces.grid import Grid, Position

# Copying a key and its value to a tile, and their gradients back, takes as long as scoring it for so many queries.
_GATHER = 32
# Scores computed at once, in elements: they should stay in a core's cache between the passes over them.
_SCORES = 1 << 20
# Of each tensor that is gathered for some tiles, as many elements for one score: memory should not grow with tiles.
_COPIES = 4


@dataclass(frozen=True)
class TileGroup:
    """Tiles with equally many queries and keys.

    Attributes:
        queries: places in a frame, int64 (G, Q).
        keys: places in a frame that a tile sees in some frame, int64 (G, S).
        hidden: for each of the mask's `spaces`, what of the keys is invisible, bool (G, Q, S); None for nothing.
    """

    queries: Tensor
    keys: Tensor
    hidden: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class FrameGroup:
    """Frames that see equally many frames, in the same way.

    Attributes:
        frames: of the queries, int64 (n,).
        keys: for each of them the frames it sees, as places in `TileLayout.frames`; int64 (n, m).
        runs: the same, for each of them as (first place, behind the last) of places that follow each other.
        kinds: which of the mask's `spaces` holds between a frame and each of its m.
    """

    frames: Tensor
    keys: Tensor
    runs: tuple[tuple[tuple[int, int], ...], ...]
    kinds: tuple[int, ...]


@dataclass(frozen=True)
class TileLayout:
    """A mask over tiles.

    Attributes:
        grid: of the mask.
        tiles: every place of a frame is a query of one of them, once.
        frames: the order of the frames among a tile's keys, int64 (F,).
        seen: every frame is in one of them, once.
    """

    grid: Grid
    tiles: tuple[TileGroup, ...]
    frames: Tensor
    seen: tuple[FrameGroup, ...]

    @property
    def pairs(self) -> int:
        """Pairs that are computed, those with the text not counted."""
        frames = sum(group.keys.numel() for group in self.seen)
        return frames * sum(group.queries.numel() * group.keys.shape[1] for group in self.tiles)


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
        tuple(
            FrameGroup(
                torch.tensor([frame for frame, _ in members], device=device),
                torch.tensor([places for _, places in members], dtype=torch.long, device=device),
                tuple(_runs(places) for _, places in members),
                kinds,
            )
            for kinds, members in frames.items()
        ),
    )


def _runs(places: list[int]) -> tuple[tuple[int, int], ...]:
    starts = [place for place in places if place - 1 not in places]
    stops = [place + 1 for place in places if place + 1 not in places]
    return tuple(zip(starts, stops, strict=True))


def _group(mask: CompactMask, members: list[tuple[Tensor, Tensor]], device: torch.device) -> TileGroup:
    queries, keys = (torch.stack(places) for places in zip(*members, strict=True))
    visible = [space[queries[:, :, None], keys[:, None, :]] for space in mask.spaces]
    hidden = tuple(None if seen.all() else ~seen.to(device) for seen in visible)
    return TileGroup(queries.to(device), keys.to(device), hidden)


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


class TiledAttention:
    """Attention over the tiles of a mask; see `cogvid.interfaces.attention.Attention`.

    Args:
        mask: who sees whom among the frame slots.
        device: where the queries will be.
        frames: the numbers of the mask's frames, for a bias, where it holds some frames of a longer clip, (F,).
    """

    def __init__(self, mask: CompactMask, device: torch.device, frames: Sequence[int] | None = None) -> None:
        self.layout = tile_layout(mask, device)
        self.frames = torch.tensor(range(mask.grid.frames) if frames is None else frames, device=device)

    @property
    def pairs(self) -> int:
        """Pairs that are computed, those with the text not counted."""
        return self.layout.pairs

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`."""
        scores: list[Tensor] = []
        if bias is not None:
            scores = [bias_scores(bias, *each, q.shape[1]).flatten(-2) for each in self._positions()]
        return _Tiled.apply(q, k, v, text_mask, self.layout, *scores)  # type: ignore[no-untyped-call]

    def _positions(self) -> list[tuple[Position, Position]]:
        """Queries (G, n, Q, 1, 1) and keys (G, n, 1, m, S) of each group of tiles and of frames, broadcasting."""
        grid = Grid(1, self.layout.grid.height, self.layout.grid.width)
        positions = []
        for tiles, seen in product(self.layout.tiles, self.layout.seen):
            _, *query = grid.position(tiles.queries[:, None, :, None, None])
            _, *key = grid.position(tiles.keys[:, None, None, None, :])
            own, others = self.frames[seen.frames], self.frames[self.layout.frames[seen.keys]]
            positions.append((Position(own[:, None, None, None], *query), Position(others[:, None, :, None], *key)))
        return positions


class _Tiled(torch.autograd.Function):
    """Forward and backward, piece by piece. Scores are computed again in the backward: only inputs are kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, layout: TileLayout, *scores: Tensor
    ) -> Tensor:
        work = _Work(q, k, v, text_mask, layout, scores)
        output = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for chunk in work.chunks():
            mixed = torch.empty_like(chunk.q)
            for piece in chunk.pieces():
                piece.put(torch.bmm(piece.attention(), piece.v), mixed)
            output.index_copy_(2, chunk.query_slots, mixed.view(*q.shape[:2], -1, q.shape[-1]))
            del chunk, piece, mixed  # before the next ones are gathered
        ctx.save_for_backward(q, k, v, text_mask, *scores)
        ctx.layout = layout
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, text_mask, *scores = ctx.saved_tensors
        work = _Work(q, k, v, text_mask, ctx.layout, scores)
        # Many tiles add to one key: in half precision each sum would be rounded.
        wide = torch.promote_types(k.dtype, torch.float32)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (k, v))
        d_scores = [torch.empty_like(x) for x in scores]
        for chunk in work.chunks():
            d_mixed, dq_tile = chunk.tiled(gradient), torch.empty_like(chunk.q)
            dk_tile, dv_tile = (torch.zeros(chunk.k.shape, dtype=wide, device=k.device) for _ in range(2))
            for piece in chunk.pieces():
                share, above = piece.attention(), piece.own(d_mixed)
                piece.add(torch.bmm(share.mT, above), dv_tile)
                rise = torch.bmm(above, piece.v.mT)
                rise = torch.ops.aten._softmax_backward_data(rise, share, -1, share.dtype)
                piece.add(torch.bmm(rise.mT, piece.q), dk_tile)
                piece.put(torch.bmm(rise, piece.k), dq_tile)
                if scores:
                    d_scores[piece.number][:, chunk.numbers, piece.numbers] = piece.split(rise)[..., work.text :].sum(0)
            dq.index_copy_(2, chunk.query_slots, dq_tile.mul_(work.scale).view(*q.shape[:2], -1, q.shape[-1]))
            dk.index_add_(2, chunk.key_slots, dk_tile.view(*k.shape[:2], -1, k.shape[-1]))
            dv.index_add_(2, chunk.key_slots, dv_tile.view(*v.shape[:2], -1, v.shape[-1]))
            del chunk, piece, d_mixed, dq_tile, dk_tile, dv_tile
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None, *d_scores


class _Work:
    """Inputs of one call."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, layout: TileLayout, scores: Any) -> None:
        self.q, self.k, self.v, self.layout, self.scores = q, k, v, layout, scores
        self.scale = q.shape[-1] ** -0.5
        self.text = text_mask.shape[1]
        # Added to the scores of the text, (B, 1, 1, 1, 1, T).
        self.padding = _minus_infinity(~text_mask, q.dtype)[:, None, None, None, None]

    def step(self, scores: int) -> int:
        """How many times so many scores of each head are computed at once."""
        return max(1, _SCORES // (self.q.shape[0] * self.q.shape[1] * scores))

    def firsts(self, count: int, step: int) -> range:
        """Where each of the parts of `count` begins that are computed one after the other.

        Without values, on the meta device, the first of them stands for all: none is larger, and each is freed.
        """
        return range(0, min(count, step) if self.q.is_meta else count, step)

    def chunks(self) -> Iterator[_Chunk]:
        """All tiles, a few of a group at a time."""
        most = max(group.keys.shape[1] for group in self.layout.seen)
        for number, group in enumerate(self.layout.tiles):
            (count, queries), keys = group.queries.shape, group.keys.shape[1]
            copied = (self.text + self.layout.grid.frames * keys) * self.q.shape[-1]
            step = self.step(max(queries * (self.text + most * keys), copied // _COPIES))
            for first in self.firsts(count, step):
                yield _Chunk(self, number, slice(first, first + step))


class _Chunk:
    """A few tiles of a group: queries, keys and values, gathered. M stands for B * H * G.

    Attributes:
        numbers: which of the group's tiles.
        q: (M, F, Q, K), scaled.
        k, v: (M, T + F * S, K), the text first, then frame after frame in the layout's order.
        query_slots: where q comes from among the frame slots, (G * F * Q,).
        key_slots: where k and v come from in the sequence, (G * (T + F * S),).
    """

    def __init__(self, work: _Work, group: int, numbers: slice) -> None:
        self.work, self.group, self.numbers = work, group, numbers
        grid, tiles = work.layout.grid, work.layout.tiles[group]
        queries, keys = tiles.queries[numbers, None], tiles.keys[numbers, None]
        starts = torch.arange(grid.frames, device=keys.device)[:, None] * grid.frame_tokens
        self.count, self.size = len(keys), keys.shape[2]
        self.query_slots = (starts + queries).flatten()
        text = torch.arange(work.text, device=keys.device).expand(self.count, -1)
        frames = (work.text + starts[work.layout.frames] + keys).flatten(1)
        self.key_slots = torch.cat([text, frames], dim=1).flatten()
        self.q = self.tiled(work.q) * work.scale
        self.k, self.v = (
            x.index_select(2, self.key_slots).view(-1, len(self.key_slots) // self.count, x.shape[-1])
            for x in (work.k, work.v)
        )
        # Added to scores, which is many times faster than filling them in.
        self.hidden = [
            None if mask is None else _minus_infinity(mask[numbers, None], work.q.dtype) for mask in tiles.hidden
        ]

    def tiled(self, x: Tensor) -> Tensor:
        """Of (B, H, tokens, K) the queries' part, (M, F, Q, K)."""
        frames = self.work.layout.grid.frames
        rows = len(self.query_slots) // self.count // frames
        return x.index_select(2, self.query_slots).view(-1, frames, rows, x.shape[-1])

    def pieces(self) -> Iterator[_Piece]:
        """All frames, a few of a group at a time."""
        for number, group in enumerate(self.work.layout.seen):
            columns = self.work.text + group.keys.shape[1] * self.size
            step = self.work.step(self.count * self.q.shape[2] * columns)
            for first in self.work.firsts(len(group.frames), step):
                yield _Piece(self, number, slice(first, first + step))


class _Piece:
    """A few frames of a chunk, whose scores are computed together: (M * n, Q, T + m * S).

    Attributes:
        numbers: which of the group's frames.
        number: of the scores that a bias adds.
        q: (M * n, Q, K), scaled.
    """

    def __init__(self, chunk: _Chunk, group: int, numbers: slice) -> None:
        self.chunk, self.work, self.numbers = chunk, chunk.work, numbers
        self.group = self.work.layout.seen[group]
        self.number = chunk.group * len(self.work.layout.seen) + group
        self.frames, self.keys = self.group.frames[numbers], self.group.keys[numbers]
        self.q = self.own(chunk.q)

    @cached_property
    def k(self) -> Tensor:
        """Keys that each frame sees, (M * n, T + m * S, K)."""
        return self._seen(self.chunk.k)

    @cached_property
    def v(self) -> Tensor:
        """Their values."""
        return self._seen(self.chunk.v)

    def _seen(self, x: Tensor) -> Tensor:
        if self.slices is None:
            return x.index_select(1, self._rows).view(-1, len(self._rows) // len(self.keys), x.shape[-1])
        parts = [x[:, each] for each in self.slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @cached_property
    def slices(self) -> list[slice] | None:
        """What a single frame sees of the chunk's keys; several frames gather theirs row by row."""
        if len(self.keys) > 1:
            return None
        text, size = self.work.text, self.chunk.size
        runs = self.group.runs[self.numbers][0]
        # The text stands before the first frame: often both are one run.
        joined = bool(runs) and runs[0][0] == 0
        slices = [slice(0, text + runs[0][1] * size if joined else text)]
        return slices + [slice(text + first * size, text + last * size) for first, last in runs[joined:]]

    @cached_property
    def _rows(self) -> Tensor:
        text = torch.arange(self.work.text, device=self.keys.device).expand(len(self.keys), -1)
        places = torch.arange(self.chunk.size, device=self.keys.device)
        frames = self.work.text + self.keys[:, :, None] * self.chunk.size + places
        return torch.cat([text, frames.flatten(1)], dim=1).flatten()

    def own(self, x: Tensor) -> Tensor:
        """The frames' part of (M, F, Q, K), (M * n, Q, K)."""
        return x.index_select(1, self.frames).flatten(0, 1)

    def put(self, x: Tensor, whole: Tensor) -> None:
        """Write (M * n, Q, K) to the frames' part of (M, F, Q, K)."""
        whole.index_copy_(1, self.frames, x.view(len(whole), -1, *x.shape[1:]))

    def add(self, x: Tensor, whole: Tensor) -> None:
        """Add (M * n, T + m * S, K) to the gradients (M, T + F * S, K) of what the frames see."""
        if self.slices is not None:
            sizes = [each.stop - each.start for each in self.slices]
            for each, part in zip(self.slices, x.split(sizes, dim=1), strict=True):
                whole[:, each] += part
            return
        text, frames = x.view(len(whole), -1, *x.shape[1:]).split([self.work.text, x.shape[1] - self.work.text], dim=2)
        whole[:, : self.work.text] += text.sum(1)
        of_frames = whole[:, self.work.text :].view(
            len(whole), self.work.layout.grid.frames, self.chunk.size, x.shape[-1]
        )
        parts = frames.unflatten(2, (self.keys.shape[1], self.chunk.size))
        for place in range(len(self.group.kinds)):
            of_frames.index_add_(1, self.keys[:, place], parts[:, :, place].to(whole.dtype))

    def attention(self) -> Tensor:
        """Softmax of the scores."""
        work, chunk, text = self.work, self.chunk, self.work.text
        scores = torch.bmm(self.q, self.k.mT)
        split = self.split(scores)
        split[..., :text] += work.padding
        for place, kind in enumerate(self.group.kinds):
            hidden = chunk.hidden[kind]
            if hidden is not None:
                start = text + place * chunk.size
                split[..., start : start + chunk.size] += hidden
        if work.scores:
            split[..., text:] += work.scores[self.number][:, chunk.numbers, self.numbers]
        return scores.softmax(-1)

    def split(self, scores: Tensor) -> Tensor:
        """Scores as (B, H, G, n, Q, T + m * S)."""
        return scores.view(*self.work.q.shape[:2], self.chunk.count, -1, *scores.shape[1:])


def _minus_infinity(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
