"""A mask in numbers: who sees how many, the blocks a kernel visits, and what each way of computing it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cogvid.attention.blocks import BlockMap, block_map
from cogvid.attention.compact import CompactMask, compact_mask
from cogvid.attention.tiles import TiledAttention
from cogvid.errors import UserError
from cogvid.generation.schedule import LAYERS
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, Visibility, given_frames

BLOCK = 64
# Two matrix products, scores and output, of a multiplication and an addition each.
FLOPS_PER_PAIR = 4  # and channel


@dataclass(frozen=True)
class Subject:
    """A pattern on a sequence.

    Attributes:
        name: of the backend.
        backend: whose pattern.
        grid: of the sequence.
        stage: whose causal order.
        head_size: K, channels of a head.
        layers: of the model.
    """

    name: str
    backend: AttentionBackend
    grid: Grid
    stage: Stage = "sequential"
    head_size: int = 64
    layers: int = LAYERS

    @property
    def given(self) -> tuple[bool, ...]:
        """Which frames are given, (F,)."""
        return given_frames(self.stage, self.grid.frames)

    def check(self) -> None:
        """Raises UserError if the stage has no sequences of so many frames."""
        try:
            _ = self.given
        except ValueError as error:
            raise UserError(f"{error}; choose another --grid, or --stage sequential.") from error


@dataclass(frozen=True)
class MaskNumbers:
    """The mask of one or more layers.

    Attributes:
        layers: that have this mask.
        visibility: the mask of the first of them.
        compact: the same, evaluated.
    """

    layers: tuple[int, ...]
    visibility: Visibility
    compact: CompactMask

    @property
    def title(self) -> str:
        """The layers in words."""
        return f"layer {self.layers[0]}" if len(self.layers) == 1 else f"layers {', '.join(map(str, self.layers))}"

    @property
    def causal_pairs(self) -> int:
        """Pairs that the causal order allows, whatever the pattern."""
        n = self.compact.grid.frame_tokens
        given = self.visibility.given
        frames = [sum(given) + (0 if own else given[:t].count(False)) for t, own in enumerate(given)]
        return sum(frames) * n * n + given.count(False) * n * (n + 1) // 2

    @cached_property
    def keys_per_query(self) -> Tensor:
        """How many frame slots each frame slot sees, int64 (F, N)."""
        seen = torch.cat([self.compact.spaces.sum(2), torch.zeros(1, self.compact.grid.frame_tokens, dtype=torch.long)])
        return seen[self.compact.kinds].sum(1)

    @cached_property
    def raster(self) -> BlockMap:
        """Blocks of slots in raster order."""
        return block_map(self.compact, BLOCK, BLOCK, raster=True)

    @cached_property
    def chosen(self) -> BlockMap:
        """Blocks of slots in the order that kernels run on."""
        return block_map(self.compact, BLOCK, BLOCK)

    @cached_property
    def computed_pairs(self) -> dict[str, int]:
        """Pairs that each way of computing the mask works through; text keys come on top of all of them."""
        return {
            "visible pairs": self.compact.pairs,
            "blocks, chosen order": self.chosen.visited * BLOCK**2,
            "blocks, raster order": self.raster.visited * BLOCK**2,
            "tiles (plain PyTorch)": TiledAttention(self.compact, torch.device("cpu")).pairs,
            "dense": self.compact.grid.tokens**2,
        }


def mask_numbers(subject: Subject, layers: Sequence[int]) -> list[MaskNumbers]:
    """The masks of some layers, each distinct one once."""
    found: dict[CompactMask, list[int]] = {}
    masks: dict[CompactMask, Visibility] = {}
    for layer in layers:
        visibility = Visibility(subject.backend.pattern, subject.grid, subject.given, layer)
        compact = compact_mask(visibility)
        masks.setdefault(compact, visibility)
        found.setdefault(compact, []).append(layer)
    return [MaskNumbers(tuple(same), masks[compact], compact) for compact, same in found.items()]


def block_counts(blocks: BlockMap) -> tuple[int, int, int]:
    """How many blocks are full, partial and empty."""
    total = (len(blocks.rows.starts) - 1) * (len(blocks.columns.starts) - 1)
    return blocks.full, blocks.visited - blocks.full, total - blocks.visited
