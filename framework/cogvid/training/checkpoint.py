"""What of a training is kept in a checkpoint, when, and how it goes on from one."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from cogvid.errors import Interrupted
from cogvid.training import checkpoint_files as files
from cogvid.training.interruption import Interruption
from cogvid.training.modules import StageModule
from cogvid.training.steps import StepCallback, finished

_NETWORK, _OPTIMIZER, _EMA = "network.", "optimizer.", "ema."


class Checkpoint(StepCallback):
    """Writes a checkpoint every few steps, at the last step and when a signal ends the training; restores the newest.

    In it are the trained parameters and the buffers, the optimiser's state and the moving average, if there is one.
    Frozen parameters are not: the stage before has left them. The learning rate follows from the step.

    Attributes:
        step: that the training goes on from; 0 for its beginning.
        spent: seconds that its steps took until there.
    """

    def __init__(self, stage: Path, every: int, interruption: Interruption, title: str) -> None:
        """Args: stage: its folder; every: steps; interruption: held back while a checkpoint is written; title: of the
        stage."""
        self.stage, self.every, self.interruption, self.title = stage, every, interruption, title
        self.found = files.newest(stage, title)
        self.step = self._saved = self.found.step if self.found else 0
        self.spent: float = self.found.state["seconds"] if self.found else 0.0
        self._started = False

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.found is None:
            return
        assert isinstance(module, StageModule)
        optimizer, trained = trainer.optimizers[0], _trained(module.network)
        for name in files.names(self.found.path):
            if name.startswith(_OPTIMIZER):
                parameter, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
                weight = trained[parameter]
                optimizer.state[weight][key] = torch.zeros(()) if key == "step" else torch.zeros_like(weight)
        files.read(self.found.path, _tensors(module, optimizer))
        trainer.precision_plugin.load_state_dict(self.found.state["precision"])
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(schedule, LRScheduler)
        schedule.last_epoch = self.step - 1
        schedule.step()
        # Lightning reads `trainer.global_step` here, and counts on.
        done = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        done.ready = done.completed = self.step

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._started = True

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # The last one, too: the stage is not finished before its model is written.
        if trainer.global_step % self.every == 0 or finished(trainer):
            self._save(trainer, module)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Interrupted) and self._started and trainer.global_step:
            self._save(trainer, module)
            exception.add_note(f"{self.title} goes on from step {trainer.global_step} when you run the command again.")

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._saved == trainer.global_step:
            return
        assert isinstance(module, StageModule)
        # What a resumed training does not repeat has to be written.
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()
        with self.interruption.held_back():
            state = {"precision": trainer.precision_plugin.state_dict(), "seconds": module.length.spent}
            files.write(self.stage, trainer.global_step, _tensors(module, trainer.optimizers[0]), state)
            self._saved = trainer.global_step


def _trained(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def _tensors(module: StageModule, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that a training changes, by the names in a checkpoint."""
    network = module.network
    trained, kept = _trained(network), network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in kept}
    return {
        **{_NETWORK + name: tensor.detach() for name, tensor in (trained | buffers).items()},
        **{
            f"{_OPTIMIZER}{name}.{key}": value
            for name, parameter in trained.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
        **{_EMA + name: average for name, average in module.ema.averages.items()},
    }
