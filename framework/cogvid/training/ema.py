"""A moving average of the weights that a stage trains: it is better than the last step's, and what the stage leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cogvid.training.sharding import local
from cogvid.training.steps import StepCallback


class Ema(StepCallback):
    """The average of the weights after steps 1 to t, weighted by `decay ** (t - step)`; float32, sharded as they are.

    So it is the exponential moving average that begins at zero, divided by `1 - decay ** t`: the correction of its
    beginning in Kingma and Ba, "Adam" (2015), section 7.2. As one update:

        average += (weight - average) * (1 - decay) / (1 - decay ** t)

    Attributes:
        averages: by the names of the trained parameters; empty where the decay is 0, and before the training starts.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Args: network; decay: a step, from 0 to below 1; 0 for no average."""
        self.network, self.decay = network, decay
        self.averages: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # No earlier: now they are on their device, and in shards if there are any.
        if self.decay:
            self.averages = {name: weight.detach().float().clone() for name, weight in self._trained()}

    @torch.no_grad()
    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.averages:
            share = (1 - self.decay) / (1 - self.decay**trainer.global_step)
            torch._foreach_lerp_(self._averages(), [weight.float() for weight in self._weights()], share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averages for its weights while the block runs; without any, nothing happens."""
        kept = [weight.clone() for weight in self._weights()] if self.averages else []
        self.apply()
        try:
            yield
        finally:
            self._put(kept)

    def apply(self) -> None:
        """Give the network the averages for its weights for good; without any, nothing happens."""
        self._put(self._averages())

    def _put(self, values: list[Tensor]) -> None:
        if values:
            for weight, value in zip(self._weights(), values, strict=True):
                weight.copy_(value)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, weight) for name, weight in self.network.named_parameters() if weight.requires_grad)

    def _weights(self) -> list[Tensor]:
        return [local(weight.detach()) for _, weight in self._trained()]

    def _averages(self) -> list[Tensor]:
        return [local(average) for average in self.averages.values()]
