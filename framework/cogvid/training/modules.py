"""What the optimiser steps of all stages share, and what one of the frame tokenizer's is."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cogvid.config.schema import StageConfig
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.share import Share
from cogvid.training import job
from cogvid.training.ema import Ema
from cogvid.training.held_out import HELD_OUT
from cogvid.training.length import Length
from cogvid.training.optimizer import build_optimizer
from cogvid.training.sharding import Sharding


class NotFiniteError(ArithmeticError):
    """The loss of a step is not finite."""


class StageModule(pl.LightningModule):
    """Optimiser, clipping and logging that all stages share.

    Attributes:
        length: of the training.
        sharding: how the processes share out the weights; None where each has them whole.
    """

    sharding: Sharding | None = None

    def __init__(self, network: torch.nn.Module, config: StageConfig, parts: int = 1) -> None:
        """Args: network; config; parts: of a step's batch, one after the other."""
        super().__init__()
        self.network, self.stage_config, self.parts = network, config, parts
        self.length = Length(config.steps)
        # `ema.applied()` for what looks at the network while it trains.
        self.ema = Ema(network, config.ema)
        self._reported: list[list[float]] = []

    def share(self, index: int) -> Share:
        """Which samples of its step's batch the n-th part that this process trains on is."""
        return Share(job.rank() + index % self.parts * job.processes(), self.parts * job.processes())

    def compile_network(self) -> None:
        """Compile what takes the time of a step, in place; nothing by default."""

    def configure_optimizers(self) -> Any:
        """See `build_optimizer`."""
        optimizer, schedule = build_optimizer(self.network.named_parameters(), self.stage_config, self.length)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def report(self, loss: Tensor, **values: Tensor) -> Tensor:
        """Log the loss and other scalars of a step, or of a part of one: their means over all processes and parts.

        Raises:
            NotFiniteError: the loss is infinite or no number; nothing was learnt from it.
        """
        logged = {"loss": loss.detach(), **values}
        means = [total / job.processes() for total in job.sums([float(value) for value in logged.values()])]
        if not math.isfinite(means[0]):
            raise NotFiniteError(f"the loss is {means[0]}")
        self._reported.append(means)
        if len(self._reported) == self.parts:
            step = [sum(parts) / self.parts for parts in zip(*self._reported, strict=True)]
            self.log_dict(dict(zip(logged, step, strict=True)), logger=False)
            self._reported.clear()
        return loss

    def held_out(self, batch: Any) -> dict[str, Tensor]:
        """What is reported of samples that no step trains on, one value for each sample, (B,) float32, by name.

        The one that is named `held_out` stands for the stage. Called without gradients, in eval mode.
        """
        raise NotImplementedError


class FrameTokenizerModule(StageModule):
    """Learns the frame tokenizer; a batch is frames uint8 (B, 3, height, width)."""

    network: FrameTokenizer

    def training_step(self, frames: Tensor, index: int) -> Tensor:
        """The tokenizer's own loss."""
        self.network.share = self.share(index)
        loss, logs = self.network.training_loss(frames.float() / 255)
        return self.report(loss, **logs)

    def held_out(self, frames: Tensor) -> dict[str, Tensor]:
        """The mean squared error of the reconstruction of whole frames, of values in [0, 1]."""
        values = frames.float() / 255
        again = self.network.decode(self.network.encode(values)).float()
        return {HELD_OUT: (again - values).square().flatten(1).mean(1)}
