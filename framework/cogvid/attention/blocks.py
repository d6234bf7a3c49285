"""The block map: where in a mask block-sparse kernels have to look, and at what."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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
