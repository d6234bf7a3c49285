"""The moving average of the trained weights: what it is, where it is used, and what a stage leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.training.fit import fit
from cogvid.training.modules import StageModule
from cogvid.training.steps import StepCallback

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, DECAY = 6, 0.8


class Numbers(Dataset[Tensor]):
    """The n-th sample is n, four times."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.full((4,), float(number))


class Regression(StageModule):
    """Learns numbers."""

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.report((self.network(batch) - 3).square().mean())


class Watch(StepCallback):
    """Keeps the weights after each step, and those that are applied then."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.applied: list[dict[str, Tensor]] = []

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, StageModule)
        self.weights.append(copies(module.network))
        with module.ema.applied():
            self.applied.append(copies(module.network))
        with pytest.raises(KeyError), module.ema.applied():
            raise KeyError
        assert_same(copies(module.network), self.weights[-1])


def copies(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def train(folder: Path, ema: float) -> tuple[Watch, dict[str, Tensor], Any]:
    """What was seen, the weights that the stage leaves, and the averages."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    network[0].requires_grad_(False)
    config = StageConfig(steps=STEPS, batch_size=2, adam_lr=0.1, ema=ema)
    module, watch = Regression(network, config), Watch()
    trainer = TrainerConfig(accelerator="cpu", log_every=1)
    fit(module, Numbers(), folder, trainer, title="x", seed=1, names=lambda numbers: ["x"], callbacks=[watch])
    return watch, copies(network), module.ema.averages


def test_it_is_the_average_of_the_weights_so_far_that_favours_the_last(tmp_path: Path) -> None:
    watch, left, averages = train(tmp_path, DECAY)
    assert averages.keys() == {"1.weight", "1.bias", "2.weight", "2.bias"}
    for step in range(1, STEPS + 1):
        shares = torch.tensor([DECAY ** (step - past) for past in range(1, step + 1)], dtype=torch.float64)
        for name in averages:
            weights = torch.stack([weights[name] for weights in watch.weights[:step]]).double()
            mean = torch.tensordot(shares / shares.sum(), weights, 1)
            torch.testing.assert_close(watch.applied[step - 1][name].double(), mean, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(watch.weights[-1]["2.weight"], averages["2.weight"], rtol=1e-2)
    # What is not trained is the last step's.
    assert_same(left, {**watch.weights[-1], **averages})


def test_without_a_decay_nothing_is_averaged(tmp_path: Path) -> None:
    watch, left, averages = train(tmp_path, 0.0)
    assert not averages
    assert_same(left, watch.weights[-1])
    assert_same(watch.applied[-1], watch.weights[-1])


def test_an_average_changes_no_step(tmp_path: Path) -> None:
    one, other = train(tmp_path / "one", 0.0)[0], train(tmp_path / "other", DECAY)[0]
    for weights, same in zip(one.weights, other.weights, strict=True):
        assert_same(weights, same)
