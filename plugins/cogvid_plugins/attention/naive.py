"""Attention to everything that came before: the paper's first stage as released."""

from __future__ import annotations

import torch
from torch import Tensor

import cogvid
from cogvid.config.schema import ComponentConfig


class Naive(cogvid.AttentionBackend):
    """All frame tokens that the causal order allows."""

    def pattern(self, query: cogvid.Position, key: cogvid.Position, layer: int) -> Tensor:
        """Everything is near enough."""
        return torch.ones_like(query.frame == key.frame)


def all_earlier() -> ComponentConfig:
    """This backend as another one's option `pattern`."""
    return ComponentConfig(name="naive")


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `naive`."""
    return {"naive": Naive}
