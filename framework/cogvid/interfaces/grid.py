"""The token grid of a clip, and the positions on it.

Shapes in the whole project: B batch, L sequence, T text slots, F frames, N tokens of one frame
(height * width, raster order: row * width + column), D model width, H heads, K channels of one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Position(NamedTuple):
    """Integer tensors of one shape (or broadcasting): where frame tokens stand."""

    frame: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True)
class Grid:
    """Tokens of a clip: `frames` frames of `height` rows and `width` columns."""

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"a grid needs at least one frame, row and column, got {self}")

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """Tokens of the clip, text not counted."""
        return self.frames * self.frame_tokens

    def position(self, index: Tensor) -> Position:
        """The positions of flat indices `frame * frame_tokens + row * width + column` (any shape)."""
        inside = index % self.frame_tokens
        return Position(index // self.frame_tokens, inside // self.width, inside % self.width)

    def positions(self, device: torch.device | str | None = None) -> Position:
        """All positions in order, each a tensor (tokens,)."""
        return self.position(torch.arange(self.tokens, device=device))
