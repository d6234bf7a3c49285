"""Runs the training of one stage in its folder, and goes on where an interrupted one stopped."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from torch.utils.data import Dataset

from cogvid.config.schema import TrainerConfig
from cogvid.data.loading import load, step_numbers
from cogvid.errors import SaidElsewhere
from cogvid.training import job
from cogvid.training.callbacks import History, StageProgress, StepRandomness
from cogvid.training.checkpoint import Checkpoint
from cogvid.training.events import drop_events
from cogvid.training.finite import check_weights, not_finite
from cogvid.training.frozen import Frozen
from cogvid.training.held_out import HeldOut, HeldOutSamples
from cogvid.training.interruption import Interruption
from cogvid.training.loggers import EVENTS, build_loggers
from cogvid.training.modules import NotFiniteError, StageModule
from cogvid.training.strategies import strategy

HISTORY = "history.jsonl"


class StageData(pl.LightningDataModule):
    """The endless batches of a stage, as Lightning wants them."""

    def __init__(self, samples: Dataset[Any], batch_size: int, parts: int, workers: int) -> None:
        super().__init__()
        self.samples, self.batch_size, self.parts, self.workers = samples, batch_size, parts, workers
        self.batches: Generator[Any, None, None] | None = None

    def train_dataloader(self) -> Generator[Any, None, None]:
        # Lightning fetches the first batch before any hook of the training: here alone it learns where to start.
        trainer = self.trainer
        assert trainer is not None
        step, rank, processes = trainer.global_step, trainer.global_rank, trainer.world_size
        numbers = step_numbers(self.batch_size, step, rank, processes, self.parts)
        self.batches = load(self.samples, numbers, self.workers)
        return self.batches

    def close(self) -> None:
        """End the workers."""
        if self.batches is not None:
            self.batches.close()


def fit(
    module: StageModule,
    samples: Dataset[Any],
    folder: Path,
    config: TrainerConfig,
    *,
    title: str,
    seed: int,
    names: Callable[[Sequence[int]], Sequence[str]],
    callbacks: Sequence[pl.Callback] = (),
    held_out: HeldOutSamples | None = None,
) -> int:
    """Train a stage to its last step; the network gets the moving average of its weights, if there is one.

    Args:
        module: network and optimiser.
        samples: map-style, by number; a step takes the next `batch_size` of them, without end.
        folder: gets TensorBoard events, `history.jsonl` and checkpoints.
        config: of the trainer.
        title: the stage's name.
        seed: all randomness of the steps follows from it.
        names: of the clips that samples are from, by the samples' numbers.
        callbacks: more of them.
        held_out: samples to report the loss on, every `validate_every` steps and at the end.

    Returns:
        The number of steps.

    Raises:
        UserError: a loss, or a weight at the end, is not finite; a frozen weight has changed; a sample cannot be read;
            a worker was killed.
        Interrupted: by a signal; between two steps, a checkpoint of the last one is left.
    """
    _quiet()
    if config.threads:
        torch.set_num_threads(config.threads)
    settings = module.stage_config
    interruption, frozen = Interruption(), Frozen(module.network)
    checkpoint = Checkpoint(folder, settings.checkpoint_every, interruption, title)
    module.length.spent = checkpoint.spent
    job.once(lambda: drop_events(folder / EVENTS, after=checkpoint.step))
    if config.compile:
        module.compile_network()
    data = StageData(samples, settings.batch_size, module.parts, config.workers)
    progress, validation = StageProgress(title, module.length), []
    if held_out is not None:
        size = max(1, settings.batch_size // (job.processes() * module.parts))
        validation = [
            HeldOut(
                held_out,
                module.held_out,
                module.network,
                every=settings.validate_every,
                size=size,
                show=progress.held_out,
                weights=module.ema.applied,
            )
        ]
    trainer = pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=strategy(config, module.sharding),
        accumulate_grad_batches=module.parts,
        precision=config.precision,  # type: ignore[arg-type]
        max_steps=settings.steps or -1,
        max_epochs=-1,
        gradient_clip_val=settings.clip_norm or None,
        logger=build_loggers(config.loggers, folder),
        deterministic=config.deterministic,
        profiler=_profiler(config.profiler, folder),
        callbacks=[
            StepRandomness(seed),
            module.length,
            frozen,
            module.ema,
            *validation,
            # Before the checkpoint: killed between the two, a resumed training repeats what has a line already.
            History(folder / HISTORY, config.log_every),
            interruption,
            *callbacks,
            checkpoint,
            progress,
        ],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    try:
        with interruption.handled(), closing(data):
            trainer.fit(module, data)
    except NotFiniteError as error:  # in all processes alike
        if not job.leads():
            raise SaidElsewhere from error
        step, size = trainer.global_step, settings.batch_size
        clips = names(range(step * size, (step + 1) * size))
        network = module.network
        raise not_finite(str(error), title, step + 1, network, settings, config.precision, clips) from error
    with job.said_once():
        check_weights(title, module.network, settings, config.precision)
        frozen.check(title)
    module.ema.apply()
    return trainer.global_step


def _profiler(name: str | None, folder: Path) -> Profiler | None:
    """Lightning's profiler of this name, which writes its report beside the events."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return kinds[name](dirpath=folder / EVENTS, filename="profile") if name else None


def _quiet() -> None:
    # Lightning's advice on loaders and tips on hardware: neither is about something the user of cogvid can change.
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # What torch.distributed.checkpoint says of every tensor, to whoever keeps all logs.
    logging.getLogger("c10d-NullHandler-dcp_logger").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|lr_scheduler.step|isinstance.treespec).*")
