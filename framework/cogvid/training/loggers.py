"""Where the scalars of a training go besides its history: one run of each logger, however often it resumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from cogvid.config.ranges import said
from cogvid.errors import UserError
from cogvid.training import job

EVENTS = "events"
# Of the services, where the environment names none.
_PROJECT = "cogvid"
_MLFLOW_RUN = "mlflow-run.txt"
_NEEDED = {"mlflow": RequirementCache(module="mlflow"), "wandb": RequirementCache(module="wandb")}


def check_loggers(names: Sequence[str], sources: Mapping[str, str] | None = None) -> None:
    """Refuse loggers whose package is not installed.

    Raises:
        UserError: one is not; the message says how to install it.
    """
    for name in names:
        if name in _NEEDED and not _NEEDED[name]:
            raise UserError(
                f"{said('trainer.loggers', sources)}trainer.loggers: {name} is not installed; pip install "
                f'"cogvid[{name}]" does it.'
            )


def build_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """The loggers of a stage's training.

    Files go into `events` in the stage's folder. Weights & Biases and MLflow have a run of the folder's name, in the
    project or experiment that WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME names, where MLFLOW_TRACKING_URI says; it goes on
    when the training does.

    Args:
        names: of loggers.
        folder: of the stage, named by its key.
    """
    build: dict[str, Callable[[Path], Logger]] = {
        "tensorboard": lambda folder: TensorBoardLogger(folder, name="", version=EVENTS),
        "csv": lambda folder: CSVLogger(folder, name="", version=EVENTS),
        "mlflow": _mlflow,
        "wandb": _wandb,
    }
    return [build[name](folder) for name in names]


def _wandb(folder: Path) -> Logger:
    (folder / EVENTS).mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(name=folder.name, id=folder.name, project=project, save_dir=folder / EVENTS, resume="allow")


def _mlflow(folder: Path) -> Logger:
    note = folder / EVENTS / _MLFLOW_RUN
    known = note.read_text() if note.exists() else None
    logger = MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=folder.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI"),
        save_dir=str(folder.parent.resolve() / "mlruns"),
        run_id=known,
    )
    if known is None and job.leads():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(logger.run_id))
    return logger
