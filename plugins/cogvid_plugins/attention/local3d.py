"""Attention to a box of neighbours in time and space."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import cogvid
from cogvid.attention.bias import RelativeBias
from cogvid.config.ranges import at_least, each, option


class Local3D(cogvid.AttentionBackend):
    """Keys less than `extent` = (lt, lx, ly) away in time, rows and columns: |dt| < lt, |dx| < lx, |dy| < ly
    (after NUWA's 3D nearby attention)."""

    @dataclass
    class Config:
        """`extent`: frames, rows, columns; `bias`: learn a bias by relative position."""

        extent: list[int] = option([3, 6, 6], each(at_least(1), count=3))
        bias: bool = False

    def pattern(self, query: cogvid.Position, key: cogvid.Position, layer: int) -> Tensor:
        """Inside the box."""
        frames, rows, columns = self.config.extent
        return (
            ((query.frame - key.frame).abs() < frames)
            & ((query.row - key.row).abs() < rows)
            & ((query.column - key.column).abs() < columns)
        )

    def bias(self, heads: int) -> nn.Module | None:
        """A `RelativeBias` over the box, if configured."""
        frames, rows, columns = self.config.extent
        return RelativeBias(heads, (frames, rows, columns)) if self.config.bias else None


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `local3d`."""
    return {"local3d": Local3D}
