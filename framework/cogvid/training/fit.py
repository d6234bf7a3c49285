"""Runs the training of one stage in its folder, and goes on where an interrupted one stopped."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from cogvid.config.schema import TrainerConfig
from cogvid.data.sequences import Batches
from cogvid.training.callbacks import Checkpoint, History, StageProgress, StepRandomness
from cogvid.training.modules import StageModule

LAST = "last.ckpt"


class StageData(pl.LightningDataModule):
    """The endless batches of a stage, as Lightning wants them."""

    def __init__(self, batches: Batches[Any]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Any]:
        # Lightning fetches the first batch before any hook of the training: here alone it learns where to start.
        assert self.trainer is not None
        self.batches.start(self.trainer.global_step, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(self.batches, batch_size=None)


def fit(
    module: StageModule,
    batches: Batches[Any],
    folder: Path,
    config: TrainerConfig,
    *,
    title: str,
    seed: int,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train a stage to its last step.

    Args:
        module: network and optimiser.
        batches: of the stage.
        folder: gets TensorBoard events, `history.jsonl` and, until the stage is finished, `last.ckpt`.
        config: of the trainer.
        title: for the progress bar.
        seed: all randomness of the steps follows from it.
        callbacks: more of them.
    """
    _quiet()
    if config.threads:
        torch.set_num_threads(config.threads)
    settings = module.stage_config
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        precision=config.precision,  # type: ignore[arg-type]
        max_steps=settings.steps,
        gradient_clip_val=settings.clip_norm or None,
        logger=TensorBoardLogger(folder, name="", version="events"),
        log_every_n_steps=config.log_every,
        callbacks=[
            StepRandomness(seed),
            # Before the checkpoint: killed between the two, a resumed training repeats what has a line already.
            History(folder / "history.jsonl", config.log_every),
            Checkpoint(folder / LAST, settings.checkpoint_every),
            StageProgress(title),
            *callbacks,
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    last = folder / LAST
    trainer.fit(module, StageData(batches), ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt


def _quiet() -> None:
    # Lightning's advice on loaders and tips on hardware: neither is about something the user of cogvid can change.
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|lr_scheduler.step|isinstance.treespec).*")
