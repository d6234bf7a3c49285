"""What happens once an optimiser step, however many parts its batch comes in."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class StepCallback(pl.Callback):
    """A callback that is told of the ends of whole steps."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.on_step_end(trainer, module)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After step `trainer.global_step`, counted from 1."""


def finished(trainer: pl.Trainer) -> bool:
    """Whether the last step is done; `Length` may say so before any is counted out."""
    return trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step
