"""Starts or finds the processes of a job: by a launcher such as torchrun or SLURM, else started here."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

from cogvid.config.ranges import said
from cogvid.config.schema import TrainerConfig
from cogvid.data.workers import processors
from cogvid.errors import Interrupted, SaidElsewhere, UserError
from cogvid.training import job

log = logging.getLogger("cogvid")
_PARENT_DEATH_SIGNAL = 1  # of prctl
# Seconds that the others get to end by themselves.
_GRACE = 30


@contextmanager
def joined(config: TrainerConfig, sources: Mapping[str, str] | None = None) -> Iterator[None]:
    """Make this process one of a job's while the block runs: of `devices` on each of `num_nodes` machines.

    Processes that torchrun or SLURM has started are taken as they are. Without such a launcher this process leads,
    and starts the others on its machine with its own command line; on several machines the command is run on each,
    with NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment, as Lightning has it.

    Args:
        config: of the trainer.
        sources: which file gave which key its value, for messages.

    Raises:
        UserError: the launcher has started another number of processes than the configuration says, or what several
            machines need is not in the environment.
    """
    environment = _environment()
    wanted = config.devices * config.num_nodes
    outside = environment.creates_processes_externally and not isinstance(environment, LightningEnvironment)
    started = environment.world_size() if outside else wanted
    if started != wanted:
        launcher = "torchrun" if isinstance(environment, TorchElasticEnvironment) else "SLURM"
        raise UserError(
            f"{said('trainer.devices', sources)}trainer.devices: {launcher} has started {started} processes, and "
            f"trainer.devices {config.devices} on trainer.num_nodes {config.num_nodes} machines are {wanted}. Set "
            "trainer.devices to the processes of a machine, and trainer.num_nodes to the machines."
        )
    if wanted == 1:
        yield
        return
    _share_threads(config)
    others = [] if environment.creates_processes_externally else _start_others(config, environment)
    try:
        _join(environment, config)
        if not job.leads():
            log.setLevel(logging.ERROR)
        yield
        job.wait()  # a process that ends early takes its connections away from those that still use them
    except Interrupted as interruption:
        if job.leads():
            raise
        raise SaidElsewhere(128 + interruption.signum) from None
    except RuntimeError as error:
        # From inside a training; what else waits says it itself.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise job.lost() from error
    finally:
        job.leave()
        _end(others)


def _environment() -> ClusterEnvironment:
    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            return kind()
    return LightningEnvironment()


def _share_threads(config: TrainerConfig) -> None:
    """Processes side by side share the machine's threads: more than it can run at once wait for each other."""
    threads = config.threads or max(1, processors() // config.devices)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)


def _start_others(config: TrainerConfig, environment: ClusterEnvironment) -> list[subprocess.Popen[bytes]]:
    """The other processes of this machine, with this one's command line."""
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if config.num_nodes > 1 and missing:
        raise UserError(
            f"trainer.num_nodes: on {config.num_nodes} machines this command needs {', '.join(missing)} in its "
            "environment; or let torchrun or SLURM start it on each of them."
        )
    os.environ.update(MASTER_ADDR=environment.main_address, MASTER_PORT=str(environment.main_port), LOCAL_RANK="0")
    return [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {"LOCAL_RANK": str(number)},
            preexec_fn=_end_with_parent,
        )
        for number in range(1, config.devices)
    ]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _join(environment: ClusterEnvironment, config: TrainerConfig) -> None:
    world = config.devices * config.num_nodes
    number = (
        environment.node_rank() * config.devices + environment.local_rank()
        if isinstance(environment, LightningEnvironment)
        else environment.global_rank()
    )
    gpus = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(environment.local_rank())
    os.environ.update(MASTER_ADDR=environment.main_address, MASTER_PORT=str(environment.main_port))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=number, world_size=world)
    rank_zero_only.rank = number  # type: ignore[attr-defined]


def _end(others: list[subprocess.Popen[bytes]]) -> None:
    """End the processes that were started here; most have ended by themselves."""
    for process in others:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()  # a training that waits for another process hears nothing milder
            process.wait()
