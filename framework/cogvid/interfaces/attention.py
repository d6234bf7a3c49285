"""The attention backend: one predicate, and optionally a bias and a faster way to compute what they say."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from cogvid.config.schema import ComponentConfig
from cogvid.errors import UserError
from cogvid.interfaces.component import Component
from cogvid.interfaces.grid import Position
from cogvid.interfaces.mask import Visibility


class Attention(Protocol):
    """Attention of the frame slots over one mask, laid out and ready to run."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """Softmax attention to the unpadded text and the visible frame slots.

        Args:
            q: (B, H, tokens, K), queries of the frame slots.
            k, v: (B, H, T + tokens, K), the text first.
            text_mask: bool (B, T).
            bias: adds to the scores of frame keys (see `AttentionBackend.bias`), or None.

        Returns:
            (B, H, tokens, K).
        """
        ...


class AttentionBackend(Component):
    """Attention of the plus channel over the frames of a clip.

    A subclass writes `pattern`. The core intersects it with the causal order of the stage, lets every frame
    token see the text, and derives the computation, the cache and the tests from the result.
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @abstractmethod
    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """Whether `key` is near enough to matter to `query`; bool, of the broadcast shape.

        Args:
            query: integer tensors (frame, row, column) that broadcast with each other and with those of `key`.
            key: the same for the keys.
            layer: index of the transformer layer, from 0.
        """

    def bias(self, heads: int) -> nn.Module | None:
        """A module that adds to the scores of visible frame keys, or None; each layer gets its own.

        It is called with (query, key) positions and returns floats that broadcast to (heads, *broadcast shape): the
        heads, or 1, come first, and axes may be missing behind them.
        """
        return None

    def prepare(self, mask: Visibility, device: torch.device) -> Attention | None:
        """Lay out the computation of one layer's attention in a way of its own; None for tiles, on plain PyTorch.

        An override may compute it in any way, but nothing else: `cogvid.testing.attention_conformance` holds it
        to the dense reference that `mask` gives.

        Args:
            mask: who sees whom.
            device: where the queries will be.

        Raises:
            UserError: this backend cannot run there.
        """
        return None


class PatternRunner(AttentionBackend):
    """A backend without a pattern of its own: it computes another one's in its own way.

    Attributes:
        inner: the backend whose pattern and bias these are.
    """

    carries_bias: ClassVar[bool] = True

    @dataclass
    class Config:
        """`pattern`: the backend whose pattern to run."""

        pattern: ComponentConfig = field(default_factory=ComponentConfig)

    def __init__(self, config: Any) -> None:
        """Args: config, whose `pattern` has been built (see `PluginManager.create`).

        Raises:
            UserError: the pattern has a bias, and this backend does not carry one.
        """
        super().__init__(config)
        self.inner: AttentionBackend = config.pattern
        assert isinstance(self.inner, AttentionBackend), "build it with create_component"
        if not self.carries_bias and self.inner.bias(1) is not None:
            raise UserError(
                f"{self.name} cannot add the bias of the pattern {self.inner.name} to its scores; switch the bias off, "
                f"or use {self.inner.name} itself as the attention backend"
            )

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        """The other backend's."""
        return self.inner.pattern(query, key, layer)

    def bias(self, heads: int) -> nn.Module | None:
        """The other backend's."""
        return self.inner.bias(heads)
