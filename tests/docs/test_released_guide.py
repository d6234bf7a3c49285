"""The guide to the released model, followed with a small one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

GUIDE = (Path(__file__).parents[2] / "docs" / "released-model.md").read_text()


@pytest.mark.timeout(600)
def test_the_released_model_is_converted_sampled_trained_further_lent_and_given_back(
    read: Callable[..., list[str]], make_release: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece")
    make_release(tmp_path / "released", codes=60, side=5)
    rows = np.random.default_rng(0).integers(60, size=(2, 64 + 5 * 25)).astype("<i4")
    rows[:, :60], rows[:, 60:64] = 63, 70
    rows.tofile(tmp_path / "tokens.bin")
    ran = read(GUIDE)
    assert [line.split()[1] for line in ran] == ["convert", "sample", "cogvideo", "run", "convert", "sample", "convert"]
    assert len(list((tmp_path / "samples").glob("*.mp4"))) == 2
    lent = load_file(next((tmp_path / "runs/lent").glob("default/0/stages/image_base/model.safetensors")))
    theirs = torch.load(tmp_path / "back/models/cogvideo-stage1/27500/mp_rank_00_model_states.pt", weights_only=True)[
        "module"
    ]
    assert lent["final_norm.weight"].equal(theirs["transformer.final_layernorm.weight"])
