"""What a stage must not change is found out if it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.errors import UserError
from cogvid.training.fit import fit
from cogvid.training.frozen import frozen_tensors
from cogvid.training.modules import StageModule

pytestmark = pytest.mark.filterwarnings("ignore")


class Numbers(Dataset[Tensor]):
    """The n-th sample is n, four times."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.full((4,), float(number))


class Network(nn.Module):
    """A frozen base with a norm that has no parameters and counts, and a trained part that has one, too."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4, affine=False)))
        self.base.requires_grad_(False).eval()
        self.plus = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(self.base(x))


class Regression(StageModule):
    """Learns numbers, and does something else in its last step."""

    also: Callable[[nn.Module], object] | None = None

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.also is not None and self.trainer.global_step == 2:
            with torch.no_grad():
                self.also(self.network)
        return self.report((self.network(batch) - 3).square().mean())


def train(folder: Path, also: Callable[[nn.Module], object] | None = None) -> None:
    module = Regression(Network(), StageConfig(steps=3, batch_size=2, adam_lr=0.1, weight_decay=0.1))
    module.also = also
    trainer = TrainerConfig(accelerator="cpu", log_every=1)
    fit(module, Numbers(), folder, trainer, title="sequential", seed=1, names=lambda numbers: ["x"])


def test_frozen_are_weights_without_gradients_and_the_buffers_among_them() -> None:
    frozen = frozen_tensors(Network())
    buffers = {f"base.1.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert frozen.keys() == {"base.0.weight", "base.0.bias", *buffers}
    assert not frozen_tensors(nn.BatchNorm1d(4))


def test_a_training_that_changes_nothing_frozen_is_right(tmp_path: Path) -> None:
    train(tmp_path)


def change_weight(network: nn.Module) -> None:
    weight = network.get_parameter("base.0.bias")
    weight[0] = torch.nextafter(weight[0], weight[0] + 1)


@pytest.mark.parametrize(
    ("also", "name"),
    [
        (change_weight, "base.0.bias"),
        (lambda network: network.base[1].train(), "base.1.0.running_mean"),
        (lambda network: network.base[0].requires_grad_(True).weight.neg_(), "base.0.weight"),
    ],
)
def test_what_a_training_changes_though_it_is_frozen_is_named(
    tmp_path: Path, also: Callable[[nn.Module], object], name: str
) -> None:
    with pytest.raises(UserError, match=f"Stage sequential: {name} is frozen, and the training has changed it"):
        train(tmp_path, also)
