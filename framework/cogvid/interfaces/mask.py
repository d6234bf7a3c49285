"""The mask, a plugin's contract: `visible = causal and pattern`. It is written here, and here alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cogvid.interfaces.grid import Grid, Position

Stage = Literal["sequential", "interpolation"]
# Of a query, a key and the index of a layer: whether the key is near enough to matter; see `AttentionBackend.pattern`.
Pattern = Callable[[Position, Position, int], Tensor]

# What the order of generation lets a query's frame see of a key's frame.
NOTHING, UP_TO_ITSELF, EVERYTHING = range(3)


def given_frames(stage: Stage, frames: int) -> tuple[bool, ...]:
    """Which frames of a sequence are given and not generated: none, or every other one from the first on."""
    if stage == "sequential":
        return (False,) * frames
    if frames < 3 or frames % 2 == 0:
        raise ValueError(f"an interpolation sequence has an odd number of frames, at least 3, got {frames}")
    return tuple(t % 2 == 0 for t in range(frames))


def frame_order(query: Tensor, key: Tensor, given: Tensor) -> Tensor:
    """How much of one frame another may see, whatever the pattern.

    Without given frames: all of an earlier frame, its own one up to the raster index. With them: given frames see all
    given frames and no generated one; a generated frame sees all given frames, the generated frames before it, and
    itself up to the raster index.

    Args:
        query, key: numbers of frames, int64, that broadcast with each other.
        given: bool (frames,).

    Returns:
        NOTHING, UP_TO_ITSELF or EVERYTHING, int64 of the broadcast shape.
    """
    query_given, key_given = given[query], given[key]
    earlier = key_given | (~query_given & (key < query))
    own = ~query_given & (key == query)
    return torch.where(earlier, EVERYTHING, torch.where(own, UP_TO_ITSELF, NOTHING))


def causal(query: Position, key: Position, width: int, given: Tensor) -> Tensor:
    """The order of generation: what a token may depend on, whatever the pattern.

    Args:
        query, key: positions that broadcast with each other.
        width: tokens of a row.
        given: bool (frames,).
    """
    order = frame_order(query.frame, key.frame, given)
    not_later = key.row * width + key.column <= query.row * width + query.column
    return (order == EVERYTHING) | ((order == UP_TO_ITSELF) & not_later)


@dataclass(frozen=True)
class Visibility:
    """The mask of one layer, on demand for any queries and keys.

    Attributes:
        pattern: of the layer's backend.
        grid: of the frames in the sequence.
        given: which frames are given, (frames,).
        layer: index of the transformer layer.
    """

    pattern: Pattern
    grid: Grid
    given: tuple[bool, ...]
    layer: int

    def on(self, device: torch.device | str) -> Callable[..., Tensor]:
        """The mask as a function `visible(query, key)` of positions on a device; all it reads is there already."""
        given = torch.tensor(self.given, device=device)

        def visible(query: Position, key: Position, near: Tensor | None = None) -> Tensor:
            near = self.pattern(query, key, self.layer) if near is None else near
            return causal(query, key, self.grid.width, given) & near

        return visible

    def pair(self, query: Position, key: Position, near: Tensor | None = None) -> Tensor:
        """Whether each query sees each key, bool of the broadcast shape.

        Args:
            query, key: positions that broadcast with each other.
            near: what the pattern says of them, where that is known already.
        """
        return self.on(query.frame.device)(query, key, near)

    def rows(self, queries: Tensor) -> Tensor:
        """Rows of the mask: flat token indices (Q,) to bool (Q, tokens)."""
        query = Position(*(axis[:, None] for axis in self.grid.position(queries)))
        key = Position(*(axis[None, :] for axis in self.grid.positions(queries.device)))
        return self.pair(query, key)

    def dense(self, device: torch.device | str | None = None) -> Tensor:
        """The whole mask, bool (tokens, tokens); queries in rows."""
        return self.rows(torch.arange(self.grid.tokens, device=device))
