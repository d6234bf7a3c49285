"""Packed weights give what the layers give, and are left alone where a model is compiled."""

from __future__ import annotations

import torch
from torch import nn

from cogvid import Grid
from cogvid.generation.packed import PackedLinear, packed
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid_plugins.attention.naive import Naive


def wide_model() -> CogVideoTransformer:
    torch.manual_seed(0)
    sizes = {"layers": 1, "width": 512, "heads": 8, "vocabulary": 20, "image_vocabulary": 11}
    config = TransformerConfig(**sizes, text_length=2, text_positions=2, grid=Grid(2, 1, 2))  # type: ignore[arg-type]
    return CogVideoTransformer(config, Naive()).eval()


def test_packed_layers_compute_what_the_layers_do() -> None:
    model = wide_model()
    copy = packed(model)
    layers = [layer for layer in copy.modules() if isinstance(layer, PackedLinear)]
    assert bool(layers) == torch.backends.mkldnn.is_available()
    tokens, mask = torch.randint(11, (2, 6)), torch.ones(2, 2)
    with torch.inference_mode():
        torch.testing.assert_close(copy(tokens, text_mask=mask), model(tokens, text_mask=mask))


def test_a_model_that_will_be_compiled_is_not_packed() -> None:
    model = wide_model()
    assert packed(model, compiled=True) is model
    assert not any(isinstance(layer, PackedLinear) for layer in packed(model, compiled=True).modules())
    assert any(isinstance(layer, nn.Linear) for layer in model.modules())
