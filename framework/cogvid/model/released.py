"""Reads the parameter names of the 2022 release into a `CogVideoTransformer`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.plugins.manager import create_component

# The release: five frames of 20x20 tokens, first frame at positions 512..911 of the image model's table,
# the first 20000 rows of a vocabulary of 150010 are image tokens.
FRAMES, _SIDE = 5, 20
TEXT_POSITIONS, _IMAGE_VOCABULARY = 512, 20000
_STAGES: dict[int | Stage, Stage] = {
    1: "sequential",
    2: "interpolation",
    "sequential": "sequential",
    "interpolation": "interpolation",
}

# Those here whose released ones may have more rows: tokens that no text has, positions that no sequence has.
TABLES = ("word_embeddings.weight", "position_embeddings.weight", "later_position_embeddings.weight")

# Names of modules in the release and here.
_MODULES = {
    "transformer.word_embeddings": "word_embeddings",
    "transformer.position_embeddings": "position_embeddings",
    "mixins.extra_position_embedding.position_embeddings": "later_position_embeddings",
    "transformer.final_layernorm": "final_norm",
}
_LAYER_MODULES = {
    "transformer.layers.{}.input_layernorm": "attention_norm",
    "transformer.layers.{}.third_layernorm": "mixed_norm",
    "transformer.layers.{}.post_attention_layernorm": "feed_norm",
    "transformer.layers.{}.fourth_layernorm": "fed_norm",
    "transformer.layers.{}.attention.query_key_value": "base.qkv",
    "transformer.layers.{}.attention.dense": "base.out",
    "transformer.layers.{}.mlp.dense_h_to_4h": "expand",
    "transformer.layers.{}.mlp.dense_4h_to_h": "contract",
    "mixins.attention_plus.query_key_value.{}": "plus.qkv",
    "mixins.attention_plus.dense.{}": "plus.out",
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
        UserError: `stage` or `num_heads` cannot be, the file cannot be read, or a tensor is missing, left over, or of
            another shape; the message names it.
    """
    if stage not in _STAGES:
        raise UserError(f"released weights: stage {stage!r} is none of {', '.join(map(repr, _STAGES))}")
    if not isinstance(weights, Mapping):
        weights = _read(Path(weights))
    layers = count_layers(weights)
    names = names_in_release(layers)
    check_names(weights, names)
    state = {ours: weights[released].float() for released, ours in names.items()}
    embedding = state["word_embeddings.weight"]
    if embedding.ndim != 2:
        raise UserError(
            f"released weights: transformer.word_embeddings.weight is {tuple(embedding.shape)}, the model needs a row "
            "for each token"
        )
    vocabulary, width = embedding.shape
    if num_heads < 1 or width % num_heads:
        raise UserError(f"released weights: num_heads {num_heads} does not divide the width of the model, {width}")
    config = TransformerConfig(
        layers=layers,
        width=width,
        heads=num_heads,
        vocabulary=vocabulary,
        image_vocabulary=min(_IMAGE_VOCABULARY, vocabulary),
        text_length=text_length,
        text_positions=TEXT_POSITIONS,
        grid=Grid(FRAMES, _SIDE, _SIDE),
    )
    # Both position tables have rows past those that a sequence of five frames uses.
    n = config.grid.frame_tokens
    for name, used in (
        ("position_embeddings", TEXT_POSITIONS + n),
        ("later_position_embeddings", (FRAMES - 1) * n),
    ):
        state[f"{name}.weight"] = state[f"{name}.weight"][:used]
    backend: AttentionBackend = (
        create_component("attention", "naive")
        if window < 0
        else create_component("attention", "swin_ar", {"window": [window, window]})
    )
    model = CogVideoTransformer(config, backend, _STAGES[stage])
    expected = model.state_dict()
    for released, ours in names.items():
        if state[ours].shape != expected[ours].shape:
            raise UserError(
                f"released weights: {released} is {tuple(weights[released].shape)}, "
                f"the model needs {tuple(expected[ours].shape)}"
            )
    model.load_state_dict(state)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} is no readable safetensors file: {error}. Give load_released the released tensors in that format, "
            "or as a mapping."
        ) from error


def count_layers(names: Iterable[str]) -> int:
    """Layers of a released model, by two tensors of each, so that a missing one is missed and a stray one strays."""
    telling = re.compile(r".*attn_distribution\.(\d+)|.*layers\.(\d+)\.input_layernorm\.weight")
    found = [match for name in names if (match := telling.fullmatch(name))]
    return 1 + max((int(match[1] or match[2]) for match in found), default=0)


def check_names(found: Collection[str], wanted: Collection[str]) -> None:
    """Refuse names of tensors that are not those of the release.

    Raises:
        UserError: one is missing, or is left over; the message names it.
    """
    for name in sorted({*wanted, *found}):
        if name not in found:
            raise UserError(f"released weights: {name} is missing; is this another model's file?")
        if name not in wanted:
            raise UserError(f"released weights: {name} is no tensor of CogVideo; is this another model's file?")


def names_in_release(layers: int) -> dict[str, str]:
    """Names of all tensors in the release, and here."""
    modules = dict(_MODULES)
    names = {}
    for layer in range(layers):
        names[f"mixins.attention_plus.attn_distribution.{layer}"] = f"blocks.{layer}.gate"
        for released, ours in _LAYER_MODULES.items():
            modules[released.format(layer)] = f"blocks.{layer}.{ours}"
    for released, ours in modules.items():
        for part in ("weight",) if "embeddings" in ours else ("weight", "bias"):
            names[f"{released}.{part}"] = f"{ours}.{part}"
    return names
