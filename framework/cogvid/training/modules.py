"""What the optimiser steps of all stages share, and what one of the frame tokenizer's is."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cogvid.config.schema import StageConfig
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.training.optimizer import build_optimizer


class NotFiniteError(ArithmeticError):
    """The loss of a step is not finite."""


class StageModule(pl.LightningModule):
    """Optimiser, clipping and logging that all stages share."""

    def __init__(self, network: torch.nn.Module, config: StageConfig) -> None:
        super().__init__()
        self.network, self.stage_config = network, config

    def configure_optimizers(self) -> Any:
        """See `build_optimizer`."""
        optimizer, schedule = build_optimizer(self.network.named_parameters(), self.stage_config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def report(self, loss: Tensor, **values: Tensor) -> Tensor:
        """Log the loss and other scalars of a step.

        Raises:
            NotFiniteError: the loss is infinite or no number; nothing was learnt from it.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss is {value}")
        self.log_dict({"loss": loss.detach(), **values}, logger=False)
        return loss


class FrameTokenizerModule(StageModule):
    """Learns the frame tokenizer; a batch is frames uint8 (B, 3, height, width)."""

    network: FrameTokenizer

    def training_step(self, frames: Tensor, index: int) -> Tensor:
        """The tokenizer's own loss."""
        loss, logs = self.network.training_loss(frames.float() / 255)
        return self.report(loss, **logs)
