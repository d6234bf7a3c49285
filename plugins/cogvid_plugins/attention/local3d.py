"""Attention to a box of neighbours in time and space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

import cogvid
from cogvid.attention.bias import RelativeBias


class Local3D(cogvid.AttentionBackend):
    """Keys less than `extent` = (lt, lx, ly) away in time, rows and columns: |dt| < lt, |dx| < lx, |dy| < ly
    (after NUWA's 3D nearby attention)."""

    @dataclass
    class Config:
        """`extent`: frames, rows, columns; `bias`: learn a bias by relative position."""

        extent: list[int] = field(default_factory=lambda: [3, 6, 6])
        bias: bool = False

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if len(self.config.extent) != 3 or min(self.config.extent) < 1:
            raise cogvid.UserError(
                f"local3d: extent must be three positive numbers [frames, rows, columns], got {self.config.extent}"
            )

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
