"""What happens around the steps of a stage: progress, history, checkpoints, reproducible randomness."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from cogvid.progress import stage_progress


class StepRandomness(pl.Callback):
    """Makes all randomness of a step a function of (seed, step), so that a resumed run draws the same numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.global_step)


class Checkpoint(pl.Callback):
    """Keeps the newest checkpoint in one file that is never half-written."""

    def __init__(self, path: Path, every: int) -> None:
        """Args: path of the file; every: steps."""
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
            fresh = self.path.with_suffix(".fresh")
            trainer.save_checkpoint(fresh)
            if trainer.is_global_zero:
                os.replace(fresh, self.path)


class History(pl.Callback):
    """Writes the logged scalars to `history.jsonl`; a resumed training drops what it is about to repeat."""

    def __init__(self, path: Path, every: int) -> None:
        """Args: path of the file; every: steps."""
        self.path, self.every = path, every

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        # A killed process may have left half a line.
        done = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= trainer.global_step]
        self.path.write_text("".join(line + "\n" for line in done))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.is_global_zero and (trainer.global_step % self.every == 0 or _finished(trainer)):
            values = {name: round(float(value), 6) for name, value in trainer.callback_metrics.items()}
            with self.path.open("a") as file:
                file.write(json.dumps({"step": trainer.global_step, **values}) + "\n")


class StageProgress(pl.Callback):
    """One line of progress: steps, loss, time left. Without a terminal, a line every tenth of the way."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar = stage_progress()
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step)
            self.started, self.first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not trainer.is_global_zero:
            return
        step, total = trainer.global_step, trainer.max_steps
        if step % 10 == 0 or _finished(trainer):
            loss = float(trainer.callback_metrics["loss"])
            self.bar.update(self.task, completed=step, description=f"{self.title}  loss {loss:.3f}")
            if not self.bar.console.is_terminal and (step % max(total // 100 * 10, 10) == 0 or _finished(trainer)):
                left = (time.monotonic() - self.started) / (step - self.first_step) * (total - step)
                self.bar.console.print(f"{self.title}: step {step}/{total}, loss {loss:.3f}, {left:.0f} s left")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if self.started:
            self.bar.stop()


def _finished(trainer: pl.Trainer) -> bool:
    return trainer.global_step >= trainer.max_steps
