"""Trainings of two processes: their checkpoints, what signals and a kill do to them, and how one process goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import Dataset
from typer import Exit

from cogvid.cli.errors import plain_errors
from cogvid.config.schema import StageConfig, TrainerConfig
from cogvid.pipeline.launch import joined
from cogvid.training import job
from cogvid.training.checkpoint_files import CHECKPOINTS, names, newest, read, write
from cogvid.training.fit import fit
from cogvid.training.modules import StageModule

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[2]
STEPS, STAGE = 8, "sequential-1"


@dataclass(frozen=True)
class Plan:
    """What becomes of a training.

    Attributes:
        signals: by rank of the process that sends one to itself, the step in which it does, and which.
        spoils: the rank of a process that changes a frozen weight.
    """

    signals: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    spoils: int = -1


class Numbers(Dataset[Tensor]):
    """The n-th sample is n, four times."""

    def __getitem__(self, number: int) -> Tensor:
        return torch.full((4,), float(number % 7) / 7)


class Regression(StageModule):
    """Learns numbers; noise is drawn for the whole batch."""

    plan = Plan()

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        step, signum = self.plan.signals.get(job.rank(), (0, 0))
        if self.trainer.global_step + 1 == step:
            os.kill(os.getpid(), signum)
        if self.plan.spoils == job.rank():
            self.network.get_parameter("0.bias").mul_(2)
        share = self.share(index)
        noise = share.of(torch.randn(share.whole(len(batch)), *batch.shape[1:]))
        return self.report((self.network(batch + noise) - 3).square().mean())


def train(folder: Path, plan: Plan, processes: int) -> None:
    """Leaves the weights in `weights.safetensors`."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    network[0].requires_grad_(False)
    config = StageConfig(steps=STEPS, batch_size=4, adam_lr=0.01, muon_lr=0.02, checkpoint_every=3, ema=0.5)
    module = Regression(network, config)
    module.plan = plan
    fit(
        module,
        Numbers(),
        folder / STAGE,
        TrainerConfig(accelerator="cpu", devices=processes, log_every=1),
        title="sequential",
        seed=1,
        names=lambda numbers: [f"clip {number}" for number in numbers],
    )
    if job.leads():
        (folder / "weights").write_text(json.dumps({name: w.tolist() for name, w in network.state_dict().items()}))


def member(rank: int, port: int, folder: Path, work: Any, *arguments: Any) -> None:
    """A process of two, as torchrun starts one; what it says is in a file."""
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "1"},
    }
    sys.stderr = (folder / f"said-{rank}").open("w")
    try:
        with plain_errors(debug=False), joined(TrainerConfig(accelerator="cpu", devices=2)):
            work(folder, *arguments)
    except Exit as end:
        sys.exit(end.exit_code)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch, warm: ForkServerContext) -> Any:
    """Runs work in two processes; gives their exit codes, and what they said."""
    monkeypatch.syspath_prepend(ROOT)

    def run(folder: Path, work: Any, *arguments: Any) -> tuple[list[int | None], list[str]]:
        folder.mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        members = [warm.Process(target=member, args=(rank, port, folder, work, *arguments)) for rank in range(2)]
        for process in members:
            process.start()
        end = time.monotonic() + 60
        for process in members:
            process.join(max(0, end - time.monotonic()))
            process.kill()
            process.join()
        return [process.exitcode for process in members], [(folder / f"said-{r}").read_text() for r in range(2)]

    return run


def left(folder: Path) -> tuple[str, str]:
    """Weights and history."""
    return (folder / "weights").read_text(), (folder / STAGE / "history.jsonl").read_text()


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / STAGE / "history.jsonl").open()]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in (folder / STAGE / CHECKPOINTS).glob("step-*"))


@pytest.fixture
def whole(together: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed training of two."""
    folder = tmp_path_factory.getbasetemp() / "whole-of-two"
    if not folder.exists():
        assert together(folder, train, Plan(), 2) == ([0, 0], ["", ""])
    return folder


TERM, INT, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


@pytest.mark.parametrize(
    ("signals", "step"),
    [
        ({0: (4, TERM), 1: (4, TERM)}, 4),
        ({0: (6, TERM), 1: (5, TERM)}, 5),
        ({0: (4, INT)}, 4),
        ({1: (STEPS, TERM)}, STEPS),
    ],
    ids=["both", "one after the other", "the leader alone", "the other alone, at the end"],
)
def test_a_signal_stops_both_after_the_same_step_and_the_bits_are_those_of_an_undisturbed_training(
    together: Any, tmp_path: Path, whole: Path, signals: dict[int, tuple[int, int]], step: int
) -> None:
    codes, said = together(tmp_path, train, Plan(signals), 2)
    signum = max(signum for _, signum in signals.values())
    assert codes == [128 + signum] * 2
    name = signal.Signals(signum).name
    again = f"sequential goes on from step {step} when you run the command again."
    assert said == [f"Error: Interrupted by {name}. {again}\n", ""]
    assert steps(tmp_path)[-1] == step
    assert together(tmp_path, train, Plan(), 2)[0] == [0, 0]
    assert left(tmp_path) == left(whole)


@pytest.mark.parametrize("at_write", [False, True])
def test_after_kill_9_of_one_the_other_says_so_and_the_bits_are_those_of_an_undisturbed_training(
    together: Any, tmp_path: Path, whole: Path, at_write: bool
) -> None:
    codes, said = together(tmp_path, kill_other if at_write else train, Plan({1: (6, KILL)}), 2)
    assert codes == [1, -KILL]
    assert said[0].count("Error: Another process of this job has ended") == 1
    assert "Traceback" not in said[0]
    assert steps(tmp_path) == [3]
    assert together(tmp_path, train, Plan(), 2)[0] == [0, 0]
    assert left(tmp_path) == left(whole)


def kill_other(folder: Path, plan: Plan, processes: int) -> None:
    """The second process is killed when its shard of the second checkpoint is written."""
    sync, calls = os.fsync, []

    def killed(file: int) -> None:
        sync(file)
        calls.append(file)
        if len(calls) == 2:
            os.kill(os.getpid(), KILL)

    if job.rank() == 1:
        os.fsync = killed
    train(folder, Plan(), processes)


def test_a_frozen_weight_that_one_process_alone_changes_is_said_by_the_leader(together: Any, tmp_path: Path) -> None:
    codes, said = together(tmp_path, train, Plan(spoils=1), 2)
    assert codes == [1, 1]
    assert said[0].startswith("Error: Stage sequential: 0.bias is frozen, and the training has changed it.")
    assert said[1] == ""


def test_a_checkpoint_of_two_processes_goes_on_in_one_and_the_other_way(
    together: Any, tmp_path: Path, whole: Path
) -> None:
    alone = tmp_path / "alone"
    train(alone, Plan(), 1)
    torch.testing.assert_close(losses(alone), losses(whole), rtol=1e-5, atol=0)
    first_two, first_one = tmp_path / "first-two", tmp_path / "first-one"
    assert together(first_two, train, Plan({0: (4, TERM)}), 2)[0] == [143, 143]
    train(first_two, Plan(), 1)
    with pytest.raises(BaseException, match="Interrupted by SIGTERM"):
        train(first_one, Plan({0: (4, TERM)}), 1)
    assert together(first_one, train, Plan(), 2)[0] == [0, 0]
    for folder in (first_two, first_one):
        assert steps(folder) == [6, 8]
        torch.testing.assert_close(losses(folder), losses(whole), rtol=1e-5, atol=0)
    both = sorted((whole / STAGE / CHECKPOINTS).glob("*/*.safetensors"))
    assert len(both) == 4
    # Each writes a share of what both have: nothing is there twice.
    assert not load_file(both[0]).keys() & load_file(both[1]).keys()


def sharded(folder: Path, go_on: bool) -> None:
    """Adam's state and weights in shards of two processes, written, or held to those that one process wrote."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 1))
    if dist.is_initialized():
        fully_shard(network, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    state = {
        f"{name}.{key}": value for name, w in network.named_parameters() for key, value in optimizer.state[w].items()
    }
    tensors = {**{name: w.detach() for name, w in network.named_parameters()}, **state}
    if not go_on:
        write(folder / STAGE, 1, tensors, {})
        return
    saved = newest(folder / STAGE, "x")
    assert saved is not None
    assert set(names(saved.path)) == tensors.keys()
    found = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    read(saved.path, found)
    for name, tensor in tensors.items():
        parts = [t.to_local() if hasattr(t, "to_local") else t for t in (found[name], tensor)]
        torch.testing.assert_close(*parts)


def test_shards_of_two_processes_are_read_by_one_and_the_other_way(together: Any, tmp_path: Path) -> None:
    for folder in (tmp_path / "of-two", tmp_path / "of-one"):
        folder.mkdir()
    assert together(tmp_path / "of-two", sharded, False) == ([0, 0], ["", ""])
    sharded(tmp_path / "of-two", True)
    sharded(tmp_path / "of-one", False)
    assert together(tmp_path / "of-one", sharded, True) == ([0, 0], ["", ""])
