"""How long a stage trains: so many optimiser steps, or so many seconds of them."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl

from cogvid.training import job
from cogvid.training.steps import StepCallback


class Length(StepCallback):
    """Ends a training with the first step past its seconds, where these decide; its learning rates go with the share.

    A second is one of an optimiser step, from its batch to its new weights: held-out losses, previews and checkpoints
    take none. Of several processes the leader's count.

    Attributes:
        steps: of the training; 0 where seconds decide.
        seconds: of the training; 0 where steps decide.
        spent: seconds so far, those before an interruption counted.
    """

    def __init__(self, steps: int, seconds: float = 0.0) -> None:
        self.steps, self.seconds, self.spent = steps, seconds, 0.0
        self._began: float | None = None

    @property
    def total(self) -> float:
        """Steps or seconds, whichever decide."""
        return self.seconds or self.steps

    def done(self, step: int) -> float:
        """How much of the total there has been after a step."""
        return self.spent if self.seconds else step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        # A batch may come in parts, which are one step.
        self._began = self._began or time.monotonic()

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert self._began is not None
        spent = self.spent + time.monotonic() - self._began
        self._began = None
        if self.seconds:
            self.spent = job.once(lambda: spent)
            trainer.should_stop = self.spent >= self.seconds
