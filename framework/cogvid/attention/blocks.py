"""The block map: where in a mask block-sparse kernels have to look, and at what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from cogvid.attention.compact import CompactMask
from cogvid.attention.partitions import rectangles, same_neighbours


@dataclass(frozen=True)
class BlockLists:
    """For each block along one side of the mask, the blocks along the other side that it has visible pairs with.

    Attributes:
        starts: where each block's entries begin, and the end of the last; int32 (blocks + 1,).
        fulls: how many of a block's entries are full; they come first; int32 (blocks,).
        index: the other block of each entry, int32 (entries,).
        pattern: the row of `BlockMap.bits` with the entry's pairs, -1 for a full block; int32 (entries,).
    """

    starts: Tensor
    fulls: Tensor
    index: Tensor
    pattern: Tensor

    def to(self, device: torch.device) -> BlockLists:
        """On another device."""
        return BlockLists(*(x.to(device) for x in (self.starts, self.fulls, self.index, self.pattern)))


@dataclass(frozen=True)
class BlockMap:
    """A mask over the frame slots in blocks of `query_block` by `key_block` places of an order of the slots.

    A block is full when all its pairs are visible and it is not cut off by the end of the sequence; what the end
    cuts off counts as partial, its pairs beyond the end as invisible.

    Attributes:
        order: the slot at each place, int32 (tokens,).
        query_block, key_block: places of a block; a key block has at most 64.
        rows: the key blocks of each query block.
        columns: the query blocks of each key block: the same entries, transposed.
        bits: each distinct pattern of a partial block, int64 (patterns, query_block): bit j of word i says whether
            place i of the query block sees place j of the key block.
    """

    order: Tensor
    query_block: int
    key_block: int
    rows: BlockLists
    columns: BlockLists
    bits: Tensor

    @property
    def visited(self) -> int:
        """Blocks with something visible."""
        return len(self.rows.index)

    @property
    def full(self) -> int:
        """Blocks with everything visible."""
        return int(self.rows.fulls.sum())

    @property
    def occupancy(self) -> float:
        """Visited blocks as a share of all."""
        return self.visited / ((len(self.rows.starts) - 1) * (len(self.columns.starts) - 1))

    def to(self, device: torch.device) -> BlockMap:
        """On another device."""
        rows, columns = self.rows.to(device), self.columns.to(device)
        return BlockMap(self.order.to(device), self.query_block, self.key_block, rows, columns, self.bits.to(device))


@lru_cache(maxsize=64)
def block_map(mask: CompactMask, query_block: int = 64, key_block: int = 64, *, raster: bool = False) -> BlockMap:
    """The block map of a mask, on the CPU.

    Args:
        mask: whose; equal masks share one map.
        query_block, key_block: places of a block, key blocks of at most 64.
        raster: keep the slots in raster order, instead of the order that visits the fewest blocks.
    """
    if not 0 < key_block <= 64:
        raise ValueError(f"a row of a key block is one word of 64 bits, got key_block {key_block}")
    layouts = (_Layout(mask, order, query_block, key_block) for order in _orders(mask, key_block, raster))
    counted = ((layout, layout.counts()) for layout in layouts)
    layout, counts = min(counted, key=lambda pair: int(pair[1].count_nonzero()))
    seen = counts.nonzero()
    full = counts[tuple(seen.T)] == query_block * key_block
    pattern = torch.full((len(seen),), -1)
    bits, pattern[~full] = layout.patterns(seen[~full])
    columns = seen.flip(1)
    return BlockMap(
        order=layout.order.slots.int(),
        query_block=query_block,
        key_block=key_block,
        rows=_lists(seen, pattern, counts.shape[0]),
        columns=_lists(columns, pattern, counts.shape[1]),
        bits=bits,
    )


def raster_counts(mask: CompactMask, block: int, offset: int) -> Tensor:
    """Visible pairs in each square block of the mask in raster order.

    Args:
        mask: whose.
        block: queries, and keys, of a block.
        offset: how many keys stand before the first frame slot.

    Returns:
        int64 (query blocks, key blocks).
    """
    order = _Order.raster(mask)
    return _Layout(mask, order, block, block, offset).counts()


@dataclass(frozen=True)
class _Order:
    """An order of the slots that keeps an order of the places in every frame.

    Attributes:
        slots: the slot at each place of the order, int64 (tokens,).
        places: which place of a frame comes where in it, int64 (N,).
        frame, rank: of each place of the order: its frame, and where in it, in the order of `places`; (tokens,).
    """

    slots: Tensor
    places: Tensor
    frame: Tensor
    rank: Tensor

    @staticmethod
    def raster(mask: CompactMask) -> _Order:
        n = mask.grid.frame_tokens
        return _Order.of(torch.zeros(n, dtype=torch.long), mask.grid.frames, by_tile=False)

    @staticmethod
    def of(labels: Tensor, frames: int, *, by_tile: bool) -> _Order:
        """Places by their tile: tile after tile in each frame, or, `by_tile`, all frames of a tile together."""
        places = labels.argsort(stable=True)
        n = len(places)
        frame = torch.arange(frames).repeat_interleave(n)
        rank = torch.arange(n).repeat(frames)
        if by_tile:
            again = (labels[places][rank] * frames + frame).argsort(stable=True)
            frame, rank = frame[again], rank[again]
        return _Order(frame * n + places[rank], places, frame, rank)


def _orders(mask: CompactMask, block: int, raster: bool) -> list[_Order]:
    """Orders worth trying: raster, and if not that alone, tiles of about a block and the same neighbours together."""
    grid = mask.grid
    height = min(1 << (block.bit_length() // 2), grid.height)
    partitions = []
    if not raster:
        partitions = [
            rectangles(grid, height, min(-(-block // height), grid.width)),
            same_neighbours(mask.spaces.any(0)),
        ]
    tiled = [
        _Order.of(labels, grid.frames, by_tile=by_tile)
        for labels in partitions
        if 1 < int(labels.max()) + 1 <= len(labels) // 2
        for by_tile in (True, False)
    ]
    return [_Order.raster(mask), *tiled]


class _Stretches:
    """The places of an order, cut into blocks, each of a few runs of one frame.

    Attributes:
        first, last: rank of a run's first place, and behind its last; int64 (runs,).
        frame, block: of a run, int64 (runs,).
        blocks: how many there are.
    """

    def __init__(self, order: _Order, size: int, offset: int = 0) -> None:
        places = torch.arange(len(order.slots)) + offset
        new = torch.ones(len(places), dtype=torch.bool)
        new[1:] = (order.rank.diff() != 1) | (order.frame.diff() != 0) | (places[1:] % size == 0)
        starts = new.nonzero()[:, 0]
        lengths = torch.cat([starts, places.new_tensor([len(places)])]).diff()
        self.first, self.frame, self.block = order.rank[starts], order.frame[starts], places[starts] // size
        self.last = self.first + lengths
        self.blocks = int(self.block[-1]) + 1

    def table(self) -> tuple[Tensor, Tensor]:
        """For each block: what tells its places inside their frames, int64 (blocks,), and its frames, (blocks, R).

        Frames are padded with -1.
        """
        count = self.block.bincount(minlength=self.blocks)
        number = torch.arange(len(self.block)) - (count.cumsum(0) - count)[self.block]
        ranges = torch.full((self.blocks, int(count.max()), 2), -1)
        frames = torch.full((self.blocks, int(count.max())), -1)
        ranges[self.block, number] = torch.stack([self.first, self.last], dim=1)
        frames[self.block, number] = self.frame
        return ranges.flatten(1).unique(dim=0, return_inverse=True)[1], frames


class _Layout:
    """A mask cut into blocks of an order; `offset` keys stand before the first frame slot."""

    def __init__(self, mask: CompactMask, order: _Order, query_block: int, key_block: int, offset: int = 0) -> None:
        self.mask, self.order, self.sizes = mask, order, (query_block, key_block)
        self.queries, self.keys = _Stretches(order, query_block), _Stretches(order, key_block, offset)

    def counts(self) -> Tensor:
        """Visible pairs of each block, int64 (query blocks, key blocks)."""
        queries, keys, places = self.queries, self.keys, self.order.places
        counts = torch.zeros(queries.blocks * keys.blocks, dtype=torch.long)
        kinds = self.mask.kinds[queries.frame][:, keys.frame]
        edges = torch.cat([queries.first, keys.first]).unique()
        below, above = (torch.searchsorted(edges, rank) for rank in (queries.last, queries.first))
        right, left = (torch.searchsorted(edges, rank) for rank in (keys.last, keys.first))
        for kind, space in enumerate(self.mask.spaces):
            # Sums over the rectangles of two runs, from sums over all rectangles at the origin.
            ordered = space[places][:, places].numpy()
            between = np.add.reduceat(np.add.reduceat(ordered, edges, axis=1, dtype=np.int32), edges, axis=0)
            sums = torch.zeros(len(edges) + 1, len(edges) + 1, dtype=torch.long)
            sums[1:, 1:] = torch.from_numpy(between).cumsum(0).cumsum(1)
            q, k = (kinds == kind).nonzero(as_tuple=True)
            inside = (
                sums[below[q], right[k]] - sums[above[q], right[k]] - sums[below[q], left[k]] + sums[above[q], left[k]]
            )
            counts.index_add_(0, queries.block[q] * keys.blocks + keys.block[k], inside)
        return counts.view(queries.blocks, keys.blocks)

    def patterns(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct patterns of some blocks (E, 2), int64 (patterns, query_block), and whose is which (E,)."""
        if not len(blocks):
            return torch.zeros(0, self.sizes[0], dtype=torch.long), torch.zeros(0, dtype=torch.long)
        (query_shape, query_frames), (key_shape, key_frames) = self.queries.table(), self.keys.table()
        q, k = blocks.T
        frames = query_frames[q][:, :, None], key_frames[k][:, None, :]
        kinds = torch.where((frames[0] < 0) | (frames[1] < 0), -2, self.mask.kinds[frames])
        # Blocks of the same places, with the same spatial masks between their frames, have the same pattern.
        like = torch.cat([query_shape[q, None], key_shape[k, None], kinds.flatten(1)], dim=1)
        _, group = like.unique(dim=0, return_inverse=True)
        example = torch.zeros(int(group.max()) + 1, dtype=torch.long)
        example[group] = torch.arange(len(group))
        words = torch.cat([self._words(part) for part in blocks[example].split(256)])
        bits, number = words.unique(dim=0, return_inverse=True)
        return bits, number[group]

    def _words(self, blocks: Tensor) -> Tensor:
        """The patterns of a few blocks (E, 2), int64 (E, query_block)."""
        (query_block, key_block), tokens = self.sizes, len(self.order.slots)
        queries = blocks[:, :1] * query_block + torch.arange(query_block)
        keys = blocks[:, 1:] * key_block + torch.arange(key_block)
        inside = (queries < tokens)[:, :, None] & (keys < tokens)[:, None, :]
        q, k = queries.clamp(max=tokens - 1)[:, :, None], keys.clamp(max=tokens - 1)[:, None, :]
        kinds = self.mask.kinds[self.order.frame[q], self.order.frame[k]]
        places = self.order.places[self.order.rank]
        visible = inside & (kinds >= 0) & self.mask.spaces[kinds.clamp(min=0), places[q], places[k]]
        return (visible.long() << torch.arange(key_block)).sum(-1)


def _lists(entries: Tensor, pattern: Tensor, blocks: int) -> BlockLists:
    """Entries (E, 2) of block and other block, in lists, full ones first."""
    order = (entries[:, 0] * 2 + (pattern >= 0)).argsort(stable=True)
    count = entries[:, 0].bincount(minlength=blocks)
    starts = torch.cat([count.new_zeros(1), count.cumsum(0)])
    fulls = entries[pattern < 0, 0].bincount(minlength=blocks)
    return BlockLists(starts.int(), fulls.int(), entries[order, 1].int(), pattern[order].int())
