"""Attention over tiles: places that lie together share the keys that any of them sees, frame by frame.

Dense attention pays for every pair; a tile of one frame pays for its queries times the keys that one of them sees,
so the cost of a local pattern follows the pairs it makes visible. Which tiles: measured on the mask, never declared.

Shapes as in `cogvid.interfaces.grid`, and G tiles of a group, Q queries and S keys of a tile in one frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cogvid.attention.bias import bias_scores
from cogvid.attention.compact import CompactMask
from cogvid.attention.layout import TileLayout, tile_layout
from cogvid.interfaces.grid import Grid, Position

# Scores computed at once, in elements: they should stay in a core's cache between the passes over them.
_SCORES = 1 << 20
# Of each tensor that is gathered for some tiles, as many elements for one score: memory should not grow with tiles.
_COPIES = 4
# Scores that are kept for the backward pass, for each number of the queries: the feed-forward keeps as many.
_KEPT = 4


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
            scores = [bias_scores(bias, *each, q.shape[1]).flatten(-2) for each in self._positions]
        return _Tiled.apply(q, k, v, text_mask, self.layout, *scores)  # type: ignore[no-untyped-call]

    @cached_property
    def _positions(self) -> list[tuple[Position, Position]]:
        """Queries (G, n, Q, 1, 1) and keys (G, n, 1, m, S) of each group of tiles and of frames, broadcasting."""
        grid = Grid(1, self.layout.grid.height, self.layout.grid.width)
        positions = []
        for tiles, seen in product(self.layout.tiles, self.layout.seen):
            _, *query = grid.position(tiles.queries.index[:, None, :, None, None])
            _, *key = grid.position(tiles.keys.index[:, None, None, None, :])
            own, others = self.frames[seen.frames], self.frames[self.layout.frames[seen.keys]]
            positions.append((Position(own[:, None, None, None], *query), Position(others[:, None, :, None], *key)))
        return positions


class _Tiled(torch.autograd.Function):
    """Forward and backward, piece by piece. Large scores are computed again in the backward: only inputs are kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, layout: TileLayout, *scores: Tensor
    ) -> Tensor:
        work = _Work(q, k, v, text_mask, layout, scores)
        output = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        shares: list[Tensor] = []
        keep = any(ctx.needs_input_grad) and work.scored <= _KEPT * q.numel()
        for chunk in work.chunks():
            mixed = torch.empty_like(chunk.q)
            for piece in chunk.pieces():
                share = piece.attention().to(chunk.v.dtype)  # wider under autocast, which the backward is not
                piece.put(torch.bmm(share, piece.v), mixed)
                if keep:
                    shares.append(share)
            chunk.queries.put(chunk.split(mixed), work.of_frames(output))
            del chunk, piece, mixed, share  # before the next ones are gathered
        ctx.save_for_backward(q, k, v, text_mask, *scores, *shares)
        ctx.layout, ctx.kept = layout, len(shares)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, text_mask, *more = ctx.saved_tensors
        scores, shares = more[: len(more) - ctx.kept], iter(more[len(more) - ctx.kept :])
        work = _Work(q, k, v, text_mask, ctx.layout, scores)
        # Many tiles add to one key: in half precision each sum would be rounded.
        wide = torch.promote_types(k.dtype, torch.float32)
        dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        dk, dv = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (k, v))
        d_scores = [torch.empty_like(x) for x in scores]
        for chunk in work.chunks():
            d_mixed, dq_tile = chunk.tiled(work.of_frames(gradient)), torch.empty_like(chunk.q)
            dk_tile, dv_tile = (torch.zeros(chunk.k.shape, dtype=wide, device=k.device) for _ in range(2))
            for piece in chunk.pieces():
                share, above = next(shares, None), piece.own(d_mixed)
                share = piece.attention() if share is None else share
                piece.add(torch.bmm(share.mT, above), dv_tile)
                rise = torch.bmm(above, piece.v.mT)
                rise = torch.ops.aten._softmax_backward_data(rise, share, -1, share.dtype)
                piece.add(torch.bmm(rise.mT, piece.q), dk_tile)
                piece.put(torch.bmm(rise, piece.k), dq_tile)
                if scores:
                    d_scores[piece.number][:, chunk.numbers, piece.numbers] = piece.split(rise)[..., work.text :].sum(0)
            chunk.queries.put(chunk.split(dq_tile.mul_(work.scale)), work.of_frames(dq))
            chunk.add(dk_tile, dk)
            chunk.add(dv_tile, dv)
            del chunk, piece, d_mixed, dq_tile, dk_tile, dv_tile
        dk, dv = (work.in_order(x).to(k.dtype) for x in (dk, dv))
        return dq, dk, dv, None, None, *d_scores


class _Work:
    """Inputs of one call."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, layout: TileLayout, scores: Any) -> None:
        self.q, self.k, self.v, self.layout, self.scores = q, k, v, layout, scores
        self.scale = q.shape[-1] ** -0.5
        self.text = text_mask.shape[1]
        # Added to the scores of the text, (B, 1, 1, 1, 1, T).
        self.padding = _minus_infinity(~text_mask, q.dtype)[:, None, None, None, None]

    def of_frames(self, x: Tensor) -> Tensor:
        """The frames' part of (B, H, tokens, K) or (B, H, T + tokens, K), (B, H, F, N, K)."""
        grid = self.layout.grid
        return x[:, :, x.shape[2] - grid.tokens :].unflatten(2, (grid.frames, grid.frame_tokens))

    @cached_property
    def key_frames(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the frames, in the layout's order, (B, H, F, N, K)."""
        k, v = self.of_frames(self.k), self.of_frames(self.v)
        if self.layout.sorted:
            return k, v
        return k.index_select(2, self.layout.frames), v.index_select(2, self.layout.frames)

    def in_order(self, x: Tensor) -> Tensor:
        """(B, H, T + tokens, K), whose frames are in the layout's order, in their own."""
        if self.layout.sorted:
            return x
        text = x[:, :, : self.text]
        return torch.cat([text, self.of_frames(x).index_select(2, self.layout.frames.argsort()).flatten(2, 3)], dim=2)

    @property
    def scored(self) -> int:
        """Scores of all heads, those of the text counted."""
        layout = self.layout
        text = self.text * layout.grid.tokens
        return self.q.shape[0] * self.q.shape[1] * (layout.pairs + text)

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
        queries, keys: their places.
        q: (M, F, Q, K), scaled.
        k, v: (M, T + F * S, K), the text first, then frame after frame in the layout's order.
    """

    def __init__(self, work: _Work, group: int, numbers: slice) -> None:
        self.work, self.group, self.numbers = work, group, numbers
        tiles = work.layout.tiles[group]
        self.queries, self.keys = tiles.queries.part(numbers), tiles.keys.part(numbers)
        self.count, self.size = self.keys.shape
        self.q = self.tiled(work.of_frames(work.q)).mul_(work.scale)
        self.k, self.v = (self._seen(x, frames) for x, frames in zip((work.k, work.v), work.key_frames, strict=True))
        # Added to scores, which is many times faster than filling them in.
        self.hidden = [
            None if mask is None else _minus_infinity(mask[numbers, None], work.q.dtype) for mask in tiles.hidden
        ]

    def tiled(self, x: Tensor) -> Tensor:
        """Of (B, H, F, N, K) the queries' part, (M, F, Q, K)."""
        count, rows = self.queries.shape
        tiles = x.new_empty(*x.shape[:2], count, x.shape[2], rows, x.shape[-1])
        self.queries.gather(x, tiles)
        return tiles.flatten(0, 2)

    def split(self, tiles: Tensor) -> Tensor:
        """(M, ...) as (B, H, G, ...)."""
        return tiles.unflatten(0, (*self.work.q.shape[:2], self.count))

    def _seen(self, x: Tensor, frames: Tensor) -> Tensor:
        text = self.work.text
        length = text + frames.shape[2] * self.size
        tiles = x.new_empty(*x.shape[:2], self.count, length, x.shape[-1])
        tiles[:, :, :, :text] = x[:, :, None, :text]
        self.keys.gather(frames, tiles[:, :, :, text:].unflatten(3, (frames.shape[2], self.size)))
        return tiles.flatten(0, 2)

    def add(self, tiles: Tensor, whole: Tensor) -> None:
        """Add (M, T + F * S, K) to (B, H, T + tokens, K), whose frames are in the layout's order."""
        tiles, text = self.split(tiles), self.work.text
        for number in range(self.count):
            whole[:, :, :text] += tiles[:, :, number, :text]
        frames = self.work.of_frames(whole)
        self.keys.add(tiles[:, :, :, text:].unflatten(3, (frames.shape[2], self.size)), frames)

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
        first = None if self.group.first is None else self.group.first + numbers.start
        self.span = None if first is None else slice(first, first + len(self.frames))
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
            return self._seen_by_each(x).flatten(0, 1)
        parts = [x[:, each] for each in self.slices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @cached_property
    def slices(self) -> list[slice] | None:
        """What a single frame sees of the chunk's keys; several frames copy theirs."""
        if len(self.keys) > 1:
            return None
        text, size = self.work.text, self.chunk.size
        runs = self.group.runs[self.numbers][0]
        # The text stands before the first frame: often both are one run.
        joined = bool(runs) and runs[0][0] == 0
        slices = [slice(0, text + runs[0][1] * size if joined else text)]
        return slices + [slice(text + first * size, text + last * size) for first, last in runs[joined:]]

    def _seen_by_each(self, x: Tensor) -> Tensor:
        """What several frames see, (M, n, T + m * S, K): copied run by run, faster than row by row."""
        text, size = self.work.text, self.chunk.size
        seen = x.new_empty(len(x), len(self.keys), text + self.keys.shape[1] * size, x.shape[-1])
        seen[:, :, :text] = x[:, None, :text]
        for number, runs in enumerate(self.group.runs[self.numbers]):
            start = text
            for first, last in runs:
                stop = start + (last - first) * size
                seen[:, number, start:stop] = x[:, text + first * size : text + last * size]
                start = stop
        return seen

    def own(self, x: Tensor) -> Tensor:
        """The frames' part of (M, F, Q, K), (M * n, Q, K)."""
        return (x.index_select(1, self.frames) if self.span is None else x[:, self.span]).flatten(0, 1)

    def put(self, x: Tensor, whole: Tensor) -> None:
        """Write (M * n, Q, K) to the frames' part of (M, F, Q, K)."""
        x = x.view(len(whole), -1, *x.shape[1:])
        if self.span is None:
            whole.index_copy_(1, self.frames, x)
        else:
            whole[:, self.span] = x

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
