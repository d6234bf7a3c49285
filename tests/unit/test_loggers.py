"""Loggers: one run each, however often a training resumes, with every step once and none going back."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import Dataset

from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.errors import UserError
from cogvid.training import loggers
from cogvid.training.fit import fit
from cogvid.training.loggers import build_loggers, check_loggers
from cogvid.training.modules import StageModule

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 8


class Ones(Dataset[Tensor]):
    def __getitem__(self, number: int) -> Tensor:
        return torch.full((4,), float(number))


class Falls(StageModule):
    """Learns numbers, and breaks down once at the beginning of a step."""

    def __init__(self, breaks: int) -> None:
        settings = StageConfig(steps=STEPS, batch_size=2, adam_lr=0.01, checkpoint_every=3)
        super().__init__(nn.Linear(4, 1), settings)
        self.breaks = breaks

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if self.trainer.global_step + 1 == self.breaks:
            raise RuntimeError("power cut")
        return self.report((self.network(batch) - 3).square().mean())


def train(folder: Path, names: Sequence[str], breaks: int = 0, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    trainer = TrainerConfig(accelerator="cpu", log_every=1, loggers=[*names], **changes)
    fit(Falls(breaks), Ones(), folder, trainer, title="sequential", seed=1, names=lambda numbers: [])


def resumed(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The history of a training that broke down in step 6, and went on from the checkpoint of step 3."""
    with pytest.raises(RuntimeError, match="power cut"):
        train(folder, names, breaks=6)
    train(folder, names)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    return lines


def test_csv_has_each_step_once(tmp_path: Path) -> None:
    lines = resumed(tmp_path / "sequential-1", ["tensorboard", "csv"])
    with (tmp_path / "sequential-1" / "events" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), round(float(row["loss"]), 6)) for row in rows] == [
        (line["step"], line["loss"]) for line in lines
    ]


def test_without_loggers_there_is_the_history_alone(tmp_path: Path) -> None:
    resumed(tmp_path / "sequential-1", [])
    assert not list((tmp_path / "sequential-1").rglob("events.out*"))


def test_mlflow_has_one_run_with_each_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path}/mlflow.db" if RequirementCache("sqlalchemy") else f"file:{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    lines = resumed(tmp_path / "sequential-1", ["mlflow"])
    client = mlflow.tracking.MlflowClient(address)
    (experiment,) = [each for each in client.search_experiments() if each.name == "cogvid"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "sequential-1"
    history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.timestamp)
    assert [metric.step for metric in history] == [line["step"] for line in lines]
    assert [round(metric.value, 6) for metric in history] == [line["loss"] for line in lines]


def test_weights_and_biases_has_one_run_whose_steps_never_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logged, log = list[tuple[str, str, int]](), wandb.Run.log

    def noted(run: Any, values: dict[str, Any], *args: Any, **options: Any) -> None:
        logged.append((run.id, run.project, values["trainer/global_step"]))
        log(run, values, *args, **options)

    monkeypatch.setattr(wandb.Run, "log", noted)
    folder = tmp_path / "sequential-1"
    resumed(folder, ["wandb"])
    wandb.finish()
    assert logged == [("sequential-1", "cogvid", step) for step in range(1, STEPS + 1)]
    assert list((folder / "events").rglob("*.wandb"))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers._NEEDED, name, RequirementCache("no-such-package-anywhere"))
    with pytest.raises(
        UserError, match=rf"trainer\.loggers: {name} is not installed; pip install \"cogvid\[{name}\]\""
    ):
        check_loggers(["tensorboard", name])


def test_the_loggers_are_lightnings(tmp_path: Path) -> None:
    kinds = [type(logger) for logger in build_loggers(["tensorboard", "csv"], tmp_path)]
    assert kinds == [TensorBoardLogger, CSVLogger]


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_a_profile_is_written_beside_the_events(tmp_path: Path, name: str) -> None:
    train(tmp_path / "sequential-1", ["tensorboard"], profiler=name)
    (report,) = (tmp_path / "sequential-1" / "events").glob("*profile*.txt")
    assert "run_training_batch" in report.read_text() or "training_step" in report.read_text()
