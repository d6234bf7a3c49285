"""The attention backend: one predicate, and optionally a bias and a faster way to compute what they say."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from cogvid.component import Component
from cogvid.grid import Position


class AttentionBackend(Component):
    """Attention of the plus channel over the frames of a clip.

    A subclass writes `pattern`. The core intersects it with the causal order of the stage, lets every frame
    token see the text, and derives the computation, the cache and the tests from the result.
    """

    @abstractmethod
    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """Whether `key` is near enough to matter to `query`; bool, of the broadcast shape.

        Args:
            query: integer tensors (frame, row, column) that broadcast with those of `key`.
            key: the same for the keys.
            layer: index of the transformer layer, from 0.
        """

    def bias(self, heads: int) -> nn.Module | None:
        """A module that adds to the scores of visible frame keys, or None; each layer gets its own.

        It is called with (query, key) positions and returns floats (heads, *broadcast shape).
        """
        return None
