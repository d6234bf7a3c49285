"""What happens around the steps of a stage: progress, history, reproducible randomness."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from cogvid.progress import stage_progress
from cogvid.training.held_out import HELD_OUT
from cogvid.training.length import Length
from cogvid.training.steps import StepCallback, finished

# Seconds between lines on how far the held-out loss is.
_SELDOM = 30


class StepRandomness(pl.Callback):
    """Makes all randomness of a step a function of (seed, step), so that a resumed run draws the same numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        torch.manual_seed(self.seed * 1_000_003 + trainer.global_step)


class History(StepCallback):
    """Writes the logged scalars to `history.jsonl` and to the trainer's loggers, counted alike.

    A resumed training drops what it is about to repeat; services that cannot forget are not told again.
    """

    def __init__(self, path: Path, every: int) -> None:
        """Args: path of the file; every: steps."""
        self.path, self.every = path, every
        # The last step that had a line before this training began, or went on.
        self._told = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
            steps = [_step_of(line) for line in lines]
            self._told = int(max((step for step in steps if step < math.inf), default=0))
            # A killed process may have left half a line.
            done = [line for line, step in zip(lines, steps, strict=True) if step <= trainer.global_step]
            self.path.write_text("".join(line + "\n" for line in done))
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):  # it begins its file anew
                    for values in map(json.loads, done):
                        logger.log_metrics(values, values.pop("step"))

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        wanted = trainer.global_step % self.every == 0 or finished(trainer) or HELD_OUT in trainer.callback_metrics
        if not trainer.is_global_zero or not wanted:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        with self.path.open("a") as file:
            rounded = {name: round(value, 6) for name, value in values.items()}
            file.write(json.dumps({"step": trainer.global_step, **rounded}) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger | CSVLogger) or trainer.global_step > self._told:
                logger.log_metrics(values, trainer.global_step)


def _step_of(line: str) -> float:
    """The step that a line of the history is of; infinity for one that is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class StageProgress(StepCallback):
    """One line of progress: steps, loss, time left. Without a terminal, a line every tenth of the way."""

    def __init__(self, title: str, length: Length) -> None:
        self.title, self.length = title, length
        self.started, self.told, self.tenths = 0.0, -math.inf, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.bar = stage_progress()
            self.bar.start()
            self.first = self.length.done(trainer.global_step)
            self.task = self.bar.add_task(self.title, total=self.length.total, completed=int(self.first))
            self.started, self.tenths = time.monotonic(), int(10 * self.first / self.length.total)

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        step, total = trainer.global_step, self.length.total
        if step % 10 and not finished(trainer):
            return
        loss, done = float(trainer.callback_metrics["loss"]), self.length.done(step)
        self.bar.update(self.task, completed=done, description=f"{self.title}  loss {loss:.3f}")
        tenths = int(10 * done / total)
        if not self.bar.console.is_terminal and (tenths > self.tenths or finished(trainer)):
            self.tenths = tenths
            left = (time.monotonic() - self.started) / (done - self.first) * max(0, total - done)
            of = f"/{total}" if self.length.steps else ""
            self.bar.console.print(f"{self.title}: step {step}{of}, loss {loss:.3f}, {left:.0f} s left")

    def held_out(self, done: int, total: int, left: float) -> None:
        """Show how many held-out samples of all have their loss, and how many seconds the others take."""
        if self.bar.console.is_terminal:
            what = "" if done == total else f"  held-out loss {done}/{total}"
            self.bar.update(self.task, description=f"{self.title}{what}")
        elif time.monotonic() > self.told + _SELDOM:
            self.told = time.monotonic()
            self.bar.console.print(f"{self.title}: held-out loss, {done} of {total} samples, {left:.0f} s left")

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.started:
            self.bar.stop()
