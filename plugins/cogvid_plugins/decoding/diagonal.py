"""Compute the diagonals of frames at once: approximate. After DiagD (Ye et al., arXiv 2503.14070)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cogvid
from cogvid.config.ranges import at_least, option
from cogvid.interfaces.decoding import Dependencies
from cogvid_plugins.decoding.early_rows import Early


class Diagonal(Early):
    """Approximate: token (row, column) in step `column + row * stride`, whatever the pattern lets it see.

    What is not there by then is hidden: ends of rows above, and of the frames before. The paper's training for this
    order is left out.
    """

    @dataclass
    class Config:
        """The slope of the diagonals.

        Attributes:
            stride: steps from a row to the next; as many as a row has columns, or more, give the tokens of
                `sequential` where `delay` is not set.
            delay: steps from a generated frame to the next; by default those of a frame's rows, as if frames were
                stacked.
        """

        stride: int = option(1, at_least(1))
        delay: int | None = option(None, at_least(0))

    def schedule(self, needs: Dependencies) -> Tensor:
        """See `Along`."""
        grid, stride = needs.grid, min(self.config.stride, needs.grid.width)
        delay = grid.height * stride if self.config.delay is None else self.config.delay
        # A frame that began after the end of the one before would leave steps empty.
        delay = min(delay, (grid.height - 1) * stride + grid.width)
        frame = (torch.arange(grid.height)[:, None] * stride + torch.arange(grid.width)).flatten()
        generated = ~torch.tensor(needs.known)
        first = (generated.cumsum(0) - 1) * delay
        return torch.where(generated[:, None], first[:, None] + frame, -1)


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decoding `diagonal`."""
    return {"diagonal": Diagonal}
