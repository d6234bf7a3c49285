"""Every stage learns one batch by heart: what it trains reaches its loss, and nothing stands in the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cogvid import Grid
from cogvid.config.schema import InterpolationStageConfig, StageConfig, TrainerConfig
from cogvid.interfaces.mask import Stage
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.training.fit import fit
from cogvid.training.modules import FrameTokenizerModule, StageModule
from cogvid.training.next_token import TransformerModule
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE

pytestmark = pytest.mark.filterwarnings("ignore")
CODES, TEXT, BATCH, GRID = 8, 4, 2, Grid(5, 3, 3)
SIZES = TransformerConfig(
    layers=2, width=128, heads=2, vocabulary=CODES + 1 + BATCH, image_vocabulary=CODES, text_length=TEXT,
    text_positions=TEXT, grid=GRID,
)  # fmt: skip
SETTINGS: dict[str, Any] = {"batch_size": BATCH, "adam_lr": 3e-3, "clip_norm": 1.0, "cooldown": 0.5}


class Samples(Dataset[Any]):
    """The same few samples again and again."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __getitem__(self, number: int) -> Any:
        return self.samples[number % len(self.samples)]


def last_loss(folder: Path, module: StageModule, samples: list[Any], compiled: bool = False) -> float:
    folder.mkdir()
    trainer = TrainerConfig(accelerator="cpu", log_every=50, loggers=[], compile=compiled)
    fit(module, Samples(samples), folder, trainer, title=folder.name, seed=0, names=lambda numbers: [])
    return json.loads((folder / "history.jsonl").read_text().splitlines()[-1])["loss"]


def sequence(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (F, N) that only their text tells apart, text tokens and mask (T,)."""
    codes = torch.randint(CODES, (GRID.frames, GRID.frame_tokens), generator=torch.Generator().manual_seed(number))
    return codes, torch.full((TEXT,), CODES + 1 + number), torch.ones(TEXT, dtype=torch.bool)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[CogVideoTransformer, float]:
    """An image model that knows the first frames by heart, and its last loss."""
    torch.manual_seed(0)
    sizes = {**vars(SIZES), "grid": Grid(1, GRID.height, GRID.width)}
    network = CogVideoTransformer(TransformerConfig(**sizes), None)
    module = TransformerModule(network, StageConfig(steps=200, **SETTINGS), CODES)
    stills = [(codes[:1], text, mask) for codes, text, mask in map(sequence, range(BATCH))]
    return network, last_loss(tmp_path_factory.mktemp("stages") / "image_base", module, stills)


def test_the_image_base_learns_a_batch_by_heart(base: tuple[CogVideoTransformer, float]) -> None:
    assert base[1] < 0.02


@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
def test_the_video_stages_learn_a_batch_by_heart(
    base: tuple[CogVideoTransformer, float], stage: Stage, tmp_path: Path
) -> None:
    # By chance it would be 2.08. How sure of a token a model can be is in the frozen base's embeddings and last norm.
    torch.manual_seed(1)
    backend = Naive() if stage == "sequential" else Local3D(Local3D.Config(extent=[3, 3, 3]))
    network = CogVideoTransformer(SIZES, backend, stage)
    network.start_video(base[0].state_dict())
    kind = StageConfig if stage == "sequential" else InterpolationStageConfig
    module = TransformerModule(network, kind(steps=200, **SETTINGS), CODES)
    assert last_loss(tmp_path / stage, module, [*map(sequence, range(BATCH))]) < 0.05


def test_the_frame_tokenizer_learns_a_batch_by_heart(tmp_path: Path) -> None:
    torch.manual_seed(2)
    config = VQVAE.Config(downsampling=4, channels=32, codes=64, code_size=8, crop=0)
    colours = torch.rand(BATCH, 3, 2, 2, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    frames = colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    module = FrameTokenizerModule(VQVAE(config), StageConfig(steps=300, **SETTINGS))
    assert last_loss(tmp_path / "tokenizer", module, [*frames]) < 0.005


def test_compiled_blocks_learn_the_same(base: tuple[CogVideoTransformer, float], tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(1)
        network = CogVideoTransformer(SIZES, Naive(), "sequential")
        network.start_video(base[0].state_dict())
        module = TransformerModule(network, StageConfig(steps=4, **SETTINGS), CODES)
        losses.append(last_loss(tmp_path / f"compiled-{compiled}", module, [sequence(0), sequence(1)], compiled))
        assert not [name for name in module.state_dict() if "_orig_mod" in name]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
