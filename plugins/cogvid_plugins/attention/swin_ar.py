"""Shifted windows through time: CogVideo's Swin attention, made autoregressive by the causal order."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

import cogvid
from cogvid.attention.bias import RelativeBias
from cogvid.config.ranges import at_least, each, option


class SwinAR(cogvid.AttentionBackend):
    """Keys in the same spatial window, of all frames or of the last few (CogVideo, section 3.3).

    Layers with an odd index move the window grid by half a window, rounded down; windows at the border are
    then smaller.
    """

    @dataclass
    class Config:
        """`window`: rows, columns; `frames`: how many frames back, the own one counted, null for all;
        `bias`: learn a bias by relative position."""

        window: list[int] = option([10, 10], each(at_least(1), count=2))
        frames: int | None = option(None, at_least(1))
        bias: bool = False

    def pattern(self, query: cogvid.Position, key: cogvid.Position, layer: int) -> Tensor:
        """In the same window, and in time near enough."""
        height, width = self.config.window
        down, right = (height // 2, width // 2) if layer % 2 else (0, 0)
        near = ((query.row - down) // height == (key.row - down) // height) & (
            (query.column - right) // width == (key.column - right) // width
        )
        if self.config.frames is None:
            return near
        return near & ((query.frame - key.frame).abs() < self.config.frames)

    def bias(self, heads: int) -> nn.Module | None:
        """A `RelativeBias` over the window, if configured; frames further apart than `frames` or 8 share one."""
        height, width = self.config.window
        return RelativeBias(heads, (self.config.frames or 8, height, width)) if self.config.bias else None


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `swin_ar`."""
    return {"swin_ar": SwinAR}
