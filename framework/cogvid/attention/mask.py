"""Who sees whom: the causal order of a stage, intersected with the pattern of a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from cogvid.interfaces.grid import Grid, Position

if TYPE_CHECKING:
    from cogvid.interfaces.attention import AttentionBackend

Stage = Literal["sequential", "interpolation"]


def given_frames(stage: Stage, frames: int) -> tuple[bool, ...]:
    """Which frames of a sequence are given and not generated: none, or every other one from the first on."""
    if stage == "sequential":
        return (False,) * frames
    if frames < 3 or frames % 2 == 0:
        raise ValueError(f"an interpolation sequence has an odd number of frames, at least 3, got {frames}")
    return tuple(t % 2 == 0 for t in range(frames))


def causal(query: Position, key: Position, width: int, given: Tensor) -> Tensor:
    """The order of generation: what a token may depend on, whatever the pattern.

    Without given frames: an earlier frame, or the same frame and a raster index not later. With them: given
    frames see all given frames and no generated one; a generated frame sees all given frames, the generated
    frames before it, and itself up to the raster index.

    Args:
        query, key: positions that broadcast with each other.
        width: tokens of a row.
        given: bool (frames,).
    """
    query_given, key_given = given[query.frame], given[key.frame]
    earlier = (key.frame < query.frame) | (
        (key.frame == query.frame) & (key.row * width + key.column <= query.row * width + query.column)
    )
    return key_given | (~query_given & earlier)


@dataclass(frozen=True)
class Visibility:
    """The mask of one layer: `visible = causal and pattern`, on demand for any queries and keys.

    Attributes:
        backend: whose pattern it is.
        grid: of the frames in the sequence.
        given: which frames are given, (frames,).
        layer: index of the transformer layer.
    """

    backend: AttentionBackend
    grid: Grid
    given: tuple[bool, ...]
    layer: int

    def pair(self, query: Position, key: Position) -> Tensor:
        """Whether each query sees each key, bool of the broadcast shape."""
        given = torch.tensor(self.given, device=query.frame.device)
        allowed = causal(query, key, self.grid.width, given)
        return allowed & self.backend.pattern(query, key, self.layer)

    def rows(self, queries: Tensor) -> Tensor:
        """Rows of the mask: flat token indices (Q,) to bool (Q, tokens)."""
        query = Position(*(axis[:, None] for axis in self.grid.position(queries)))
        key = Position(*(axis[None, :] for axis in self.grid.positions(queries.device)))
        return self.pair(query, key)

    def dense(self, device: torch.device | str | None = None) -> Tensor:
        """The whole mask, bool (tokens, tokens); queries in rows."""
        return self.rows(torch.arange(self.grid.tokens, device=device))
