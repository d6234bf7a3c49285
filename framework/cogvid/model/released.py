"""Reads the parameter names of the 2022 release into a `CogVideoTransformer`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cogvid.attention.backend import AttentionBackend
from cogvid.attention.mask import Stage
from cogvid.errors import UserError
from cogvid.grid import Grid
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.plugins import create_component

# The release: five frames of 20x20 tokens, first frame at positions 512..911 of the image model's table,
# the first 20000 rows of a vocabulary of 150010 are image tokens.
_FRAMES, _SIDE = 5, 20
_TEXT_POSITIONS, _IMAGE_VOCABULARY = 512, 20000

_NAMES = {
    r"transformer\.word_embeddings\.weight": "word_embeddings.weight",
    r"transformer\.position_embeddings\.weight": "position_embeddings.weight",
    r"mixins\.extra_position_embedding\.position_embeddings\.weight": "later_position_embeddings.weight",
    r"transformer\.final_layernorm\.(\w+)": r"final_norm.\1",
    r"transformer\.layers\.(\d+)\.input_layernorm\.(\w+)": r"blocks.\1.attention_norm.\2",
    r"transformer\.layers\.(\d+)\.third_layernorm\.(\w+)": r"blocks.\1.mixed_norm.\2",
    r"transformer\.layers\.(\d+)\.post_attention_layernorm\.(\w+)": r"blocks.\1.feed_norm.\2",
    r"transformer\.layers\.(\d+)\.fourth_layernorm\.(\w+)": r"blocks.\1.fed_norm.\2",
    r"transformer\.layers\.(\d+)\.attention\.query_key_value\.(\w+)": r"blocks.\1.base.qkv.\2",
    r"transformer\.layers\.(\d+)\.attention\.dense\.(\w+)": r"blocks.\1.base.out.\2",
    r"transformer\.layers\.(\d+)\.mlp\.dense_h_to_4h\.(\w+)": r"blocks.\1.expand.\2",
    r"transformer\.layers\.(\d+)\.mlp\.dense_4h_to_h\.(\w+)": r"blocks.\1.contract.\2",
    r"mixins\.attention_plus\.query_key_value\.(\d+)\.(\w+)": r"blocks.\1.plus.qkv.\2",
    r"mixins\.attention_plus\.dense\.(\d+)\.(\w+)": r"blocks.\1.plus.out.\2",
    r"mixins\.attention_plus\.attn_distribution\.(\d+)": r"blocks.\1.gate",
}


def load_released(
    weights: Mapping[str, Tensor] | str | Path,
    *,
    stage: int | Stage,
    window: int,
    num_heads: int,
    text_length: int = 64,
) -> CogVideoTransformer:
    """A model with the weights of the 2022 release of CogVideo.

    Args:
        weights: tensors under the released names (`transformer.*`, `mixins.*`), or a safetensors file of them.
        stage: 1 or "sequential", 2 or "interpolation".
        window: side of the plus channel's shifted windows; -1 for full attention.
        num_heads: attention heads.
        text_length: text slots of a sequence.

    Returns:
        The model in float32 and eval mode; `model(tokens, text_mask=...)` gives the release's logits.

    Raises:
        UserError: a tensor is missing, left over, or of another shape; the message names it.
    """
    if not isinstance(weights, Mapping):
        from safetensors.torch import load_file

        weights = load_file(weights)
    state = {}
    for name, tensor in weights.items():
        matches = (re.fullmatch(pattern, name) for pattern in _NAMES)
        match = next((m for m in matches if m), None)
        if match is None:
            raise UserError(f"released weights: the tensor {name!r} is none that CogVideo has; is it another model's?")
        state[match.expand(_NAMES[match.re.pattern])] = tensor.float()
    config = TransformerConfig(
        layers=len([name for name in state if name.endswith(".gate")]),
        width=_size(state, "word_embeddings.weight", 1),
        heads=num_heads,
        vocabulary=_size(state, "word_embeddings.weight", 0),
        image_vocabulary=min(_IMAGE_VOCABULARY, _size(state, "word_embeddings.weight", 0)),
        text_length=text_length,
        text_positions=_TEXT_POSITIONS,
        grid=Grid(_FRAMES, _SIDE, _SIDE),
    )
    # Both position tables have rows past those that a sequence of five frames uses.
    n = config.grid.frame_tokens
    for name, used in (
        ("position_embeddings", _TEXT_POSITIONS + n),
        ("later_position_embeddings", (_FRAMES - 1) * n),
    ):
        state[f"{name}.weight"] = state.get(f"{name}.weight", torch.empty(0))[:used]
    sequential = stage in (1, "sequential")
    backend: AttentionBackend = (
        create_component("attention", "naive")
        if window < 0
        else create_component("attention", "swin_ar", {"window": [window, window]})
    )
    model = CogVideoTransformer(config, backend, "sequential" if sequential else "interpolation")
    expected = model.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        if name not in state or name not in expected or state[name].shape != expected[name].shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            wanted = tuple(expected[name].shape) if name in expected else "nothing"
            raise UserError(f"released weights: for {name} the file has {found}, the model needs {wanted}")
    model.load_state_dict(state)
    return model.eval()


def _size(state: Mapping[str, Tensor], name: str, dimension: int) -> int:
    if name not in state:
        raise UserError(f"released weights: {name} is missing")
    return state[name].shape[dimension]
