"""Checkpoints of a training: what is in them, that they are whole or not there, and what a damaged one costs."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.utils.data import Dataset

from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.errors import Interrupted
from cogvid.training import checkpoint_files
from cogvid.training.checkpoint_files import CHECKPOINTS, names, newest, read, write
from cogvid.training.fit import fit
from cogvid.training.modules import StageModule

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
STAGE = "sequential-1"


class Numbers(Dataset[Tensor]):
    """The n-th sample is n, four times."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.full((4,), float(number))


class Network(nn.Module):
    """Something frozen, something trained, and a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.plus = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(self.base(x))


class Regression(StageModule):
    """Learns numbers."""

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        return self.report((self.network(batch + torch.randn_like(batch)) - 3).square().mean())


class Killed(Exception):
    """Stands for whatever ends a process."""


class KillIn(pl.Callback):
    """Raises in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step - 1:
            raise Killed


def train(folder: Path, *callbacks: pl.Callback) -> StageModule:
    torch.manual_seed(0)
    config = StageConfig(
        steps=STEPS, batch_size=2, adam_lr=0.01, muon_lr=0.02, checkpoint_every=2, weight_decay=0.1, ema=0.9
    )
    module = Regression(Network(), config)
    fit(
        module,
        Numbers(),
        folder / STAGE,
        TrainerConfig(accelerator="cpu", log_every=1),
        title="sequential",
        seed=1,
        names=lambda numbers: [f"clip {number}" for number in numbers],
        callbacks=callbacks,
    )
    return module


def checkpoints(folder: Path) -> list[Path]:
    """Everything there, the oldest first."""
    return sorted((folder / STAGE / CHECKPOINTS).iterdir())


def steps(folder: Path) -> list[int]:
    """Of the checkpoints; what a kill left under a hidden name is none."""
    return [int(path.name[-8:]) for path in checkpoints(folder) if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], str]:
    """Weights and history of an undisturbed training."""
    folder = tmp_path_factory.mktemp("whole")
    return train(folder).network.state_dict(), (folder / STAGE / "history.jsonl").read_text()


def assert_same(module: StageModule, folder: Path, whole: tuple[dict[str, Tensor], str]) -> None:
    for name, weight in module.network.state_dict().items():
        assert torch.equal(weight, whole[0][name]), name
    assert (folder / STAGE / "history.jsonl").read_text() == whole[1]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a training that was killed in step 7."""
    with pytest.raises(Killed):
        train(tmp_path, KillIn(7))
    return tmp_path


def test_two_checkpoints_are_kept(killed: Path, whole: Any) -> None:
    assert steps(killed) == [4, 6]
    assert_same(train(killed), killed, whole)
    assert steps(killed) == [6, 8]
    assert {path.name for path in (killed / STAGE).iterdir()} == {"history.jsonl", "events", CHECKPOINTS}


def test_after_a_kill_behind_the_last_step_nothing_is_trained_again(tmp_path: Path, whole: Any) -> None:
    train(tmp_path)
    assert_same(train(tmp_path, *(KillIn(step) for step in range(1, STEPS + 1))), tmp_path, whole)


def test_a_checkpoint_is_safetensors_and_json_without_what_is_frozen(killed: Path) -> None:
    files = {path.name for path in checkpoints(killed)[-1].iterdir()}
    (tensors,) = files - {"state.json"}
    assert tensors.endswith(".safetensors")
    with safe_open(checkpoints(killed)[-1] / tensors, "pt") as file:
        names = set(file.keys())
    weights = {f"plus.{layer}.{kind}" for layer in range(3) for kind in ("weight", "bias")}
    buffers = {f"plus.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    matrices = {"plus.0.weight", "plus.2.weight"}
    keys = {name: ("momentum", "step") if name in matrices else ("exp_avg", "exp_avg_sq", "step") for name in weights}
    assert names == {
        *(f"network.{name}" for name in weights | buffers),
        *(f"optimizer.{name}.{key}" for name in weights for key in keys[name]),
        *(f"ema.{name}" for name in weights),
    }


def shard(path: Path) -> Path:
    return next(path.glob("*.safetensors"))


def cut(path: Path) -> None:
    shard(path).write_bytes(shard(path).read_bytes()[:-100])


def flip(path: Path) -> None:
    """The last bit of the last tensor."""
    content = bytearray(shard(path).read_bytes())
    content[-1] ^= 1
    shard(path).write_bytes(content)


def lose(path: Path) -> None:
    shard(path).unlink()


def add(path: Path) -> None:
    """A shard of another checkpoint."""
    shard(path).with_name("shard-00009-model-00001-of-00001.safetensors").write_bytes(shard(path).read_bytes())


def spoil(path: Path) -> None:
    (path / "state.json").write_bytes(b'{"about": {"step"')


def count_on(path: Path) -> None:
    """Another step in the state, and in the folder's name."""
    state = path / "state.json"
    state.write_text(state.read_text().replace('"step": 6', '"step": 7'))
    path.rename(path.with_name("step-00000007"))


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, lose, add, spoil, count_on, empty])
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    killed: Path, whole: Any, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
) -> None:
    damage(checkpoints(killed)[-1])
    name = checkpoints(killed)[-1]
    caplog.clear()
    module = train(killed)
    assert [record.getMessage() for record in caplog.records if record.name == "cogvid"] == [
        f"{name} is damaged: sequential goes on from step 4"
    ]
    assert_same(module, killed, whole)
    assert steps(killed) == [6, 8]


def test_where_both_are_damaged_the_stage_is_trained_anew(
    killed: Path, whole: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before, last = checkpoints(killed)
    cut(before)
    flip(last)
    caplog.clear()
    module = train(killed)
    assert [record.getMessage() for record in caplog.records if record.name == "cogvid"] == [
        f"{last} and {before} are damaged: sequential starts at its first step again"
    ]
    assert_same(module, killed, whole)


def test_a_checkpoint_of_another_stage_is_not_taken(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = (killed / STAGE).rename(killed / "interpolation-1")
    assert newest(moved, "interpolation") is None
    assert "are damaged: interpolation starts at its first step again" in caplog.text


def call_at(count: int, name: str, act: Callable[[], Any], patch: pytest.MonkeyPatch) -> None:
    """Let the n-th call of a function of `os` act first."""
    real, calls = getattr(os, name), []

    def patched(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == count:
            act()
        return real(*arguments)

    patch.setattr(os, name, patched)


def train_and_die(folder: Path, count: int, name: str) -> None:
    call_at(count, name, lambda: os.kill(os.getpid(), signal.SIGKILL), pytest.MonkeyPatch())
    train(folder)


@pytest.mark.parametrize(
    ("count", "name", "kept"),
    [(3, "fsync", [2]), (4, "fsync", [2]), (2, "replace", [2]), (4, "replace", [2, 4, 6])],
    ids=["shards written", "state written", "before the new name", "while an old one is removed"],
)
def test_after_kill_9_while_a_checkpoint_is_written_the_one_before_is_taken(
    tmp_path: Path,
    whole: Any,
    monkeypatch: pytest.MonkeyPatch,
    warm: ForkServerContext,
    count: int,
    name: str,
    kept: list[int],
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    process = warm.Process(target=train_and_die, args=(tmp_path, count, name))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert steps(tmp_path) == kept
    module = train(tmp_path)
    assert_same(module, tmp_path, whole)
    assert steps(tmp_path) == [6, 8]


def test_a_signal_while_a_checkpoint_is_written_waits_for_it(
    tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        call_at(3, "fsync", lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        with pytest.raises(Interrupted) as interruption:
            train(tmp_path)
    assert interruption.value.__notes__ == ["sequential goes on from step 4 when you run the command again."]
    assert steps(tmp_path) == [2, 4]
    assert_same(train(tmp_path), tmp_path, whole)


def test_a_full_disk_leaves_no_half_checkpoint(tmp_path: Path, whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = HuggingFaceStorageWriter.write_data, []

    def fill_up(writer: HuggingFaceStorageWriter, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:  # the disk is full
            Path(writer.path, "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(writer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(HuggingFaceStorageWriter, "write_data", fill_up)
        with pytest.raises(OSError, match="No space left") as error:
            train(tmp_path)
    assert (error.value.errno, Path(error.value.filename).name) == (errno.ENOSPC, ".step-00000004.partial")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002"]
    assert_same(train(tmp_path), tmp_path, whole)


def test_tensors_of_many_files_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "_FILE_BYTES", 40)
    tensors = {
        "float": torch.randn(7, 5),
        "none": torch.zeros(0, 3),
        "half": torch.randn(30).bfloat16(),
        "scalar": torch.tensor(3.0),
        "transposed": torch.randn(4, 6).T,
        "flags": torch.tensor([True, False]),
        "count": torch.tensor(2**40),
    }
    write(tmp_path, 3, tensors, {"scale": 0.1})
    saved = newest(tmp_path, "x")
    assert saved is not None
    assert (saved.step, saved.state) == (3, {"scale": 0.1})
    assert len(list(saved.path.glob("*.safetensors"))) > 2
    assert sorted(names(saved.path)) == sorted(tensors)
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    read(saved.path, found)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
