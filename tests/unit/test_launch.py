"""Which processes a job has, and what is said before any of them does something where they do not fit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.config.schema import TrainerConfig
from cogvid.errors import UserError
from cogvid.pipeline.launch import check_one_machine, joined
from cogvid.training import job

SLURM = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("environment", "trainer", "message"),
    [
        ({**SLURM, "SLURM_NTASKS_PER_NODE": "2"}, TrainerConfig(devices=4), "SLURM has started other processes.*srun"),
        ({**SLURM, "SLURM_NTASKS_PER_NODE": "2"}, TrainerConfig(), "SLURM has started other processes.*ntasks"),
        (SLURM, TrainerConfig(devices=2), "SLURM has started other processes.*--ntasks-per-node in the script"),
        (
            {**SLURM, "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"},
            TrainerConfig(devices=2, num_nodes=2),
            "trainer.num_nodes to the machines",
        ),
        (TORCHRUN, TrainerConfig(devices=2), "torchrun has started other processes.*trainer.devices 2 on"),
        (TORCHRUN, TrainerConfig(), "torchrun has started other processes"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "2"}, TrainerConfig(devices=4), "torchrun has started 4 processes, and not"),
        ({}, TrainerConfig(num_nodes=2), "needs NODE_RANK, MASTER_ADDR, MASTER_PORT in its environment"),
        ({"NODE_RANK": "0", "MASTER_PORT": "1"}, TrainerConfig(num_nodes=2), "needs MASTER_ADDR in its"),
        (
            {"NODE_RANK": "2", "MASTER_PORT": "1", "MASTER_ADDR": "127.0.0.1"},
            TrainerConfig(num_nodes=2),
            "NODE_RANK is 2, and 2 machines have the numbers 0 to 1",
        ),
    ],
    ids=str,
)
def test_processes_that_do_not_fit_the_configuration_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], trainer: TrainerConfig, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(UserError, match=message), joined(trainer, {"trainer.devices": "mine.yaml"}):
        raise AssertionError("this is no job")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("environment", "trainer", "message"),
    [
        (TORCHRUN, TrainerConfig(devices=4), "trainer.devices: a launcher has started the 4 processes of a job"),
        ({}, TrainerConfig(num_nodes=2), "trainer.num_nodes: this command starts processes on one machine"),
        ({}, TrainerConfig(devices=2), ""),
    ],
    ids=str,
)
def test_a_command_that_starts_jobs_itself_is_for_one_machine(
    monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], trainer: TrainerConfig, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        check_one_machine(trainer)


def test_an_address_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True)
    for name, value in {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match=f"do not find each other at 127.0.0.1, port {store.port}"),
        joined(TrainerConfig(num_nodes=2)),
    ):
        raise AssertionError("this is no job")
    assert not torch.distributed.is_initialized()


def test_one_process_is_a_job_of_its_own() -> None:
    with joined(TrainerConfig()):
        assert (job.rank(), job.processes(), job.leads()) == (0, 1, True)
        assert job.once(lambda: "made") == "made"
        assert (job.sums([1, 2.5]), job.largest(3)) == ([1, 2.5], 3)
        job.wait()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["trainer.devices=3"], r"among 3 processes \(.*batch_size to 3 or 6\. .*trainer\.accumulate cuts"),
        (["trainer.num_nodes=8"], r"among 8 processes \(.*batch_size to 8\. "),
        (["trainer.devices=2", "trainer.accumulate=4"], r"among 2 .* and into 4 parts \(.*batch_size to 8\.$"),
        (["trainer.accumulate=3"], r"into 3 parts \(trainer\.accumulate\)\. Set .*batch_size to 3 or 6\.$"),
    ],
    ids=str,
)
def test_odd_batches_are_refused(tmp_path: Path, changes: list[str], message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, "
        "trainer/cpu]\nframe_tokenizer: vqvae\ntext_tokenizer: bpe\nstages:\n"
        "  tokenizer: {steps: 6, batch_size: 24}\n"
        + "".join(f"  {s}: {{steps: 6, batch_size: 4}}\n" for s in ("image_base", "sequential", "interpolation"))
    )
    with pytest.raises(UserError, match=f"stages.image_base.batch_size: a batch of 4 does not divide {message}"):
        load_experiment(str(path), None, changes)
    result = CliRunner().invoke(app, ["run", str(path), *changes, "--runs", str(tmp_path / "runs")])
    assert result.exit_code == 1
    assert not (tmp_path / "runs").exists()


def test_what_is_no_strategy_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainer\.strategy.*ddp_fork"):
        load_experiment("quickstart", None, ["trainer.strategy=ddp_fork"])
