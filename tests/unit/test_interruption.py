"""Trainings that are interrupted, damaged or leave the finite numbers."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch import Tensor, nn
from torch.utils.data import Dataset

from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.errors import Interrupted, UserError
from cogvid.training.checkpoint_files import CHECKPOINTS
from cogvid.training.finite import check_weights
from cogvid.training.fit import fit
from cogvid.training.held_out import HeldOutSamples
from cogvid.training.length import Length
from cogvid.training.modules import StageModule

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 8
Hook = Callable[[int], None]


class Numbers(Dataset[Tensor]):
    """The n-th sample is n, four times; `at` is called with it first."""

    def __init__(self, at: Hook) -> None:
        self.at = at

    def __getitem__(self, number: int) -> Tensor:
        self.at(number)
        return torch.full((4,), float(number))


class Regression(StageModule):
    """Learns numbers; `at` is called in the middle of a step, with its number."""

    def __init__(self, config: StageConfig, at: Hook) -> None:
        super().__init__(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1)), config)
        self.at = at

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        self.at(self.trainer.global_step + 1)
        return self.report((self.network(batch + torch.randn_like(batch)) - 3).square().mean())

    def held_out(self, batch: Tensor) -> dict[str, Tensor]:
        return {"held_out": (self.network(batch) - 3).square().mean(1)}


class Between(pl.Callback):
    """Calls `at` between two steps, with the number of the last."""

    def __init__(self, at: Hook) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.at(trainer.global_step)


def nothing(step: int) -> None:
    """What an undisturbed training does."""


def config(**changes: Any) -> StageConfig:
    return StageConfig(
        **{"steps": STEPS, "batch_size": 2, "adam_lr": 0.01, "checkpoint_every": 3, "validate_every": 3, **changes}
    )


def train(
    folder: Path,
    inside: Hook = nothing,
    between: Hook = nothing,
    settings: StageConfig | None = None,
    *,
    precision: str = "32-true",
    workers: int = 0,
    drawing: Hook = nothing,
    seconds: float = 0.0,
) -> StageModule:
    torch.manual_seed(0)
    settings = settings or config()
    module = Regression(settings, inside)
    module.length = Length(settings.steps, seconds)
    fit(
        module,
        Numbers(drawing),
        folder / "sequential-1",
        TrainerConfig(accelerator="cpu", log_every=1, precision=precision, workers=workers),
        title="sequential",
        seed=1,
        names=lambda numbers: [f"clip {number}" for number in numbers],
        callbacks=[Between(between)],
        held_out=HeldOutSamples(torch.arange(20.0).view(5, 4)),
    )
    return module


def at(step: int, act: Callable[[], None]) -> Hook:
    """Acts once, at this step."""
    todo = [act]
    return lambda now: todo.pop()() if now == step and todo else None


def told(folder: Path) -> tuple[str, dict[tuple[str, int], int]]:
    """The history, and how often TensorBoard has each (value, step)."""
    seen: Counter[tuple[str, int]] = Counter()
    for file in (folder / "sequential-1" / "events").glob("events.out*"):
        for event in EventFileLoader(str(file)).Load():
            seen.update((value.tag, event.step) for value in event.summary.value)
    return (folder / "sequential-1" / "history.jsonl").read_text(), dict(seen)


def saved(folder: Path) -> list[int]:
    """The steps of the checkpoints."""
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "sequential-1" / CHECKPOINTS).glob("*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Any]:
    """Weights of an undisturbed training, and what it told."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder).network.state_dict(), told(folder)


def assert_same(module: StageModule, folder: Path, whole: tuple[dict[str, Tensor], Any]) -> None:
    for name, weight in module.network.state_dict().items():
        assert torch.equal(weight, whole[0][name]), name
    assert told(folder) == whole[1]


def test_a_training_of_seconds_ends_with_the_first_step_past_them_those_before_an_interruption_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("cogvid.training.length.time", SimpleNamespace(monotonic=lambda: now[0]))

    def inside(step: int) -> None:
        now[0] += 2.0

    def between(step: int) -> None:
        now[0] += 50.0  # of held-out losses and checkpoints: no part of a step
        if step == 4 and len(now) == 1:
            now.append(0.0)
            os.kill(os.getpid(), signal.SIGTERM)

    settings = config(steps=0)
    with pytest.raises(Interrupted):
        train(tmp_path, inside, between, settings, seconds=13.0)
    train(tmp_path, inside, between, settings, seconds=13.0)
    history = [json.loads(line) for line in told(tmp_path)[0].splitlines()]
    assert [line["step"] for line in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [line["step"] for line in history if "held_out" in line] == [3, 6, 7]
    assert saved(tmp_path)[-1] == 7


def test_tensorboard_has_each_step_once_counted_as_the_history_counts(whole: tuple[Any, Any]) -> None:
    history, seen = whole[1]
    assert [json.loads(line)["step"] for line in history.splitlines()] == list(range(1, STEPS + 1))
    held_out = {("held_out", step): 1 for step in (3, 6, STEPS)}
    assert seen == {("loss", step): 1 for step in range(1, STEPS + 1)} | held_out


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [1, 4, 6, STEPS])
@pytest.mark.parametrize("where", ["inside", "between"])
def test_an_interrupted_training_loses_no_step(
    tmp_path: Path, whole: tuple[Any, Any], signum: int, step: int, where: str
) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(Interrupted) as interruption:
        train(tmp_path, **{where: at(step, lambda: os.kill(os.getpid(), signum))})  # type: ignore[arg-type]
    assert interruption.value.signum == signum
    assert f"sequential goes on from step {step} " in interruption.value.__notes__[0]
    assert signal.getsignal(signum) == before
    assert saved(tmp_path)[-1] == step
    assert_same(train(tmp_path), tmp_path, whole)


def test_a_signal_after_the_last_step_loses_none(
    tmp_path: Path, whole: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    close = EventFileWriter.close

    def close_and_signal(writer: EventFileWriter) -> None:
        close(writer)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(EventFileWriter, "close", close_and_signal)
        with pytest.raises(Interrupted):
            train(tmp_path)
    assert saved(tmp_path)[-1] == STEPS
    assert_same(train(tmp_path), tmp_path, whole)


class Killed(Exception):
    """Stands for whatever ends a process."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("step", [2, 4, 6, 7])
def test_after_a_kill_no_step_is_told_twice(tmp_path: Path, whole: tuple[Any, Any], step: int) -> None:
    with pytest.raises(Killed):
        train(tmp_path, inside=at(step, kill))
    assert_same(train(tmp_path), tmp_path, whole)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["inside", "between"])
def test_an_interrupted_training_loses_no_step_and_leaves_no_worker(
    tmp_path: Path, whole: tuple[Any, Any], signum: int, where: str
) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, **{where: at(4, lambda: os.kill(os.getpid(), signum))}, workers=2)  # type: ignore[arg-type]
    assert not active_children()
    assert saved(tmp_path)[-1] == 4
    assert_same(train(tmp_path, workers=1), tmp_path, whole)
    assert not active_children()


def test_a_worker_that_is_killed_ends_the_training_with_one_error(tmp_path: Path, whole: tuple[Any, Any]) -> None:
    def die(number: int) -> None:
        if number == 9:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(UserError, match=r"^A worker process .* was killed by SIGKILL, .* \(trainer\.workers, of"):
        train(tmp_path, drawing=die, workers=2)
    assert not active_children()
    assert_same(train(tmp_path), tmp_path, whole)


@pytest.mark.parametrize("damage", [b'{"step": 2, "lo', b"\xff\xfe}\n", b"[]\n", b'{"loss": 1}\n', b'{"step": {}}\n'])
def test_a_damaged_line_of_the_history_is_dropped(tmp_path: Path, whole: tuple[Any, Any], damage: bytes) -> None:
    with pytest.raises(Killed):
        train(tmp_path, inside=at(7, kill))
    with (tmp_path / "sequential-1" / "history.jsonl").open("ab") as file:
        file.write(damage)
    assert_same(train(tmp_path), tmp_path, whole)


def test_damaged_events_end_no_training(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, inside=at(7, kill))
    for file in (tmp_path / "sequential-1" / "events").glob("events.out*"):
        file.write_bytes(file.read_bytes()[:-100])
    train(tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"adam_lr": 1e30}, "stages.sequential.adam_lr (1e+30)"),
        ({"muon_lr": 1e30}, "stages.sequential.muon_lr (1e+30)"),
        ({"muon_lr": 0.01, "adam_lr": 1e30}, "stages.sequential.adam_lr (1e+30)"),
    ],
)
def test_a_loss_that_is_not_finite_stops_at_its_step_and_names_the_key_at_fault(
    tmp_path: Path, changes: dict[str, float], key: str
) -> None:
    with pytest.raises(UserError, match=r"Stage sequential: the loss is (nan|inf) at step 2 of 8") as error:
        train(tmp_path, settings=config(**changes))
    assert 'the clips "clip 2", "clip 3"' in str(error.value)
    assert key in str(error.value)
    assert not saved(tmp_path)


def test_a_loss_that_is_not_finite_before_anything_is_learnt_is_no_fault_of_a_rate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at step 1 of 8.*Most likely attention is at fault"):
        train_spoilt(tmp_path, config())


def train_spoilt(folder: Path, settings: StageConfig) -> None:
    module = Regression(settings, nothing)
    nn.init.constant_(module.network[2].bias, float("nan"))  # type: ignore[index]
    trainer = TrainerConfig(accelerator="cpu", log_every=1)
    fit(
        module,
        Numbers(nothing),
        folder / "sequential-1",
        trainer,
        title="sequential",
        seed=1,
        names=lambda numbers: ["a"],
    )


def test_weights_that_the_last_step_spoils_are_found() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_weights("sequential", network, config(), "32-true")
    nn.init.constant_(network[1].weight[0, :1], float("inf"))
    with pytest.raises(UserError, match=r"its last step of 8 left numbers in 1\.weight that are not finite"):
        check_weights("sequential", network, config(), "32-true")
