"""Weights of the 2022 release: the same logits, and clear words about files that are something else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvid import UserError
from cogvid.model.released import load_released

WIDTH, VOCABULARY, LAYERS = 8, 30, 2


def linear(name: str, rows: int, columns: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.zeros(rows, columns), f"{name}.bias": torch.zeros(rows)}


def norm(name: str) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}


def released_state() -> dict[str, Tensor]:
    """Every tensor of a release of two narrow layers."""
    d = WIDTH
    state = {
        "transformer.word_embeddings.weight": torch.zeros(VOCABULARY, d),
        "transformer.position_embeddings.weight": torch.zeros(512 + 400, d),
        "mixins.extra_position_embedding.position_embeddings.weight": torch.zeros(1600, d),
        **norm("transformer.final_layernorm"),
    }
    for layer in range(LAYERS):
        inside = f"transformer.layers.{layer}"
        for name in ("input", "third", "post_attention", "fourth"):
            state |= norm(f"{inside}.{name}_layernorm")
        state |= linear(f"{inside}.attention.query_key_value", 3 * d, d)
        state |= linear(f"{inside}.attention.dense", d, d)
        state |= linear(f"{inside}.mlp.dense_h_to_4h", 4 * d, d)
        state |= linear(f"{inside}.mlp.dense_4h_to_h", d, 4 * d)
        state |= linear(f"mixins.attention_plus.query_key_value.{layer}", 3 * d, d)
        state |= linear(f"mixins.attention_plus.dense.{layer}", d, d)
        state[f"mixins.attention_plus.attn_distribution.{layer}"] = torch.zeros(d)
    return state


# One layer of each kind of tensor, the last one.
NAMES = sorted(name for name in released_state() if not re.search(r"\.0(\.|$)", name))


def load(state: dict[str, Tensor]) -> None:
    load_released(state, stage=1, window=-1, num_heads=2)


@pytest.mark.parametrize(
    ("name", "stage", "window"),
    [("stage1_full", 1, -1), ("stage1_window10", "sequential", 10), ("stage2_window10", 2, 10)],
)
def test_the_released_weights_give_the_released_logits(reference: Path, name: str, stage: int, window: int) -> None:
    stored = load_file(reference / f"{name}.safetensors")
    weights = {key.removeprefix("weights."): t for key, t in stored.items() if key.startswith("weights.")}
    model = load_released(weights, stage=stage, window=window, num_heads=4)
    with torch.no_grad():
        logits = model(stored["tokens"], text_mask=stored["text_mask"])[:, stored["logit_positions"]]
    assert (logits - stored["logits"]).abs().max() <= 1e-4 * stored["logits"].std()


def test_weights_may_come_from_a_file(tmp_path: Path) -> None:
    save_file(released_state(), tmp_path / "weights.safetensors")
    model = load_released(tmp_path / "weights.safetensors", stage=2, window=10, num_heads=2)
    assert len(model.blocks) == LAYERS
    assert not model.training


@pytest.mark.parametrize("stage", [0, 3, "1", "sequentiel", None])
def test_a_stage_that_is_none_is_refused_with_those_there_are(stage: Any) -> None:
    with pytest.raises(UserError, match=f"stage {stage!r} is none of 1, 2, 'sequential', 'interpolation'"):
        load_released(released_state(), stage=stage, window=10, num_heads=2)


@pytest.mark.parametrize("heads", [0, -2, 3])
def test_heads_that_do_not_divide_the_width_are_refused(heads: int) -> None:
    with pytest.raises(UserError, match=f"num_heads {heads} does not divide the width of the model, {WIDTH}"):
        load_released(released_state(), stage=1, window=10, num_heads=heads)


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "pickle", "cut"])
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "pickle":
        torch.save(released_state(), path)
    elif kind == "cut":
        save_file(released_state(), path)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{path} is no readable safetensors file: "):
        load_released(path, stage=1, window=10, num_heads=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_tensor_is_named(name: str) -> None:
    state = released_state()
    del state[name]
    with pytest.raises(UserError) as caught:
        load(state)
    assert name in str(caught.value)


def test_an_embedding_that_is_no_table_is_named() -> None:
    with pytest.raises(UserError, match=r"transformer\.word_embeddings\.weight is \(30,\)"):
        load(released_state() | {"transformer.word_embeddings.weight": torch.zeros(VOCABULARY)})


@pytest.mark.parametrize("name", [name for name in NAMES if "word_embeddings" not in name])
def test_a_tensor_of_another_shape_is_named(name: str) -> None:
    state = released_state()
    state[name] = torch.zeros(3, 5)
    with pytest.raises(UserError) as caught:
        load(state)
    assert name in str(caught.value)
    assert "(3, 5)" in str(caught.value)


@pytest.mark.parametrize("name", ["mixins.lora.weight", "transformer.layers.2.attention.dense.bias"])
def test_a_tensor_too_many_is_named(name: str) -> None:
    with pytest.raises(UserError) as caught:
        load(released_state() | {name: torch.zeros(WIDTH)})
    assert name in str(caught.value)


def test_position_rows_past_those_of_a_sequence_are_left_out() -> None:
    state = released_state()
    for name in list(state):
        if "position_embeddings" in name:
            state[name] = torch.cat([state[name], torch.ones(7, WIDTH)])
    load(state)
