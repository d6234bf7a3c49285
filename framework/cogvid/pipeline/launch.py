"""Starts or finds the processes of a job: by a launcher such as torchrun or SLURM, else started here."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_utilities.core.rank_zero import rank_zero_only

from cogvid.config.ranges import said
from cogvid.config.schema import TrainerConfig
from cogvid.data.workers import processors
from cogvid.errors import Interrupted, SaidElsewhere, UserError
from cogvid.pipeline.parent import end_with_parent
from cogvid.training import job

log = logging.getLogger("cogvid")
# Seconds that the others get to end by themselves.
_GRACE = 30
_LAUNCHERS: dict[type[TorchElasticEnvironment | SLURMEnvironment], str] = {
    TorchElasticEnvironment: "torchrun",
    SLURMEnvironment: "SLURM",
}


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
        UserError: the launcher has started another number of processes than the configuration says, what several
            machines need is not in the environment, or the processes do not find each other.
    """
    with _restored():
        environment = _environment(config, sources)
        if config.devices * config.num_nodes == 1:
            yield
            return
        _share_threads(config)
        others = [] if environment.creates_processes_externally else _start_others(config, environment)
        try:
            with _watched(others):
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


@contextmanager
def _restored() -> Iterator[None]:
    """Leave this process as it was: it may be in a job again, or in none."""
    before, level, threads = dict(os.environ), log.level, torch.get_num_threads()
    number = getattr(rank_zero_only, "rank", 0)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        log.setLevel(level)
        torch.set_num_threads(threads)
        rank_zero_only.rank = number  # type: ignore[attr-defined]


def _environment(config: TrainerConfig, sources: Mapping[str, str] | None) -> ClusterEnvironment:
    """What has started this process; Lightning's trainer finds the same.

    Raises:
        UserError: other processes than the configuration says.
    """
    for kind, launcher in _LAUNCHERS.items():
        if not kind.detect():
            continue
        wanted = f"trainer.devices {config.devices} on trainer.num_nodes {config.num_nodes}"
        advice = "Set trainer.devices to the processes of a machine, and trainer.num_nodes to the machines"
        if launcher == "SLURM":
            advice += "; start the command with srun, and have --ntasks-per-node in the script"
        try:
            environment = kind()
            environment.validate_settings(config.devices, config.num_nodes)
            started, here = environment.world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", config.devices))
            if (started, here) == (config.devices * config.num_nodes, config.devices):
                return environment
            found = f"{launcher} has started {started} processes"
        except (RuntimeError, ValueError) as error:
            found = f"{launcher} has started other processes ({str(error).partition(' HINT')[0]})"
        raise UserError(f"{said('trainer.devices', sources)}trainer.devices: {found}, and not {wanted}. {advice}.")
    return LightningEnvironment()


def check_one_machine(config: TrainerConfig, sources: Mapping[str, str] | None = None) -> None:
    """Refuse what a command that starts jobs of its own cannot do.

    Raises:
        UserError: this process is one of several already, or several machines are to work on one run.
    """
    if _environment(config, sources).creates_processes_externally and config.devices > 1:
        raise UserError(
            f"{said('trainer.devices', sources)}trainer.devices: a launcher has started the {config.devices} processes "
            "of a job, and this command starts processes itself. Start it without the launcher, or give the launcher "
            "a `cogvid run` for each variant and seed."
        )
    if config.num_nodes > 1:
        raise UserError(
            f"{said('trainer.num_nodes', sources)}trainer.num_nodes: this command starts processes on one machine. "
            "For runs on several, use `cogvid run` on each of them for each variant and seed."
        )


def _share_threads(config: TrainerConfig) -> None:
    """Processes side by side share the machine's threads: more than it can run at once wait for each other."""
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        threads = config.threads or max(1, processors() // config.devices)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _start_others(config: TrainerConfig, environment: ClusterEnvironment) -> list[subprocess.Popen[bytes]]:
    """The other processes of this machine, with this one's command line."""
    machines = config.num_nodes
    if machines > 1:
        missing = [name for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(
                f"trainer.num_nodes: on {machines} machines this command needs {', '.join(missing)} in its environment;"
                " or let torchrun or SLURM start it on each of them."
            )
        if os.environ["NODE_RANK"] not in map(str, range(machines)):
            raise UserError(
                f"trainer.num_nodes: NODE_RANK is {os.environ['NODE_RANK']}, and {machines} machines have the numbers "
                f"0 to {machines - 1}."
            )
    os.environ.update(MASTER_ADDR=environment.main_address, MASTER_PORT=str(environment.main_port), LOCAL_RANK="0")
    return [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env=os.environ | {"LOCAL_RANK": str(number)},
            preexec_fn=end_with_parent,
        )
        for number in range(1, config.devices)
    ]


@contextmanager
def _watched(others: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Say it at once when a process that was started here is killed: this one may be at work alone for hours."""
    if not others or threading.current_thread() is not threading.main_thread():
        yield
        return

    def look(*_: Any) -> None:
        for process in others:
            code = process.poll() or 0
            # One that ends by itself has its reasons, and says them, or this one has ended it.
            if code < 0:
                signal.signal(signal.SIGCHLD, before)
                raise job.lost(f"process {process.pid} was killed by {signal.Signals(-code).name}")

    before = signal.signal(signal.SIGCHLD, look)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


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
    address, port = environment.main_address, environment.main_port
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    rank_zero_only.rank = number  # type: ignore[attr-defined]
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", rank=number, world_size=world)
    except dist.DistError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"trainer.devices: the {world} processes of this job do not find each other at {address}, port {port} "
            f"(MASTER_ADDR, MASTER_PORT): {reason}"
        ) from error


def _end(others: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes that were started here; most have ended by themselves."""
    for process in others:
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()  # a training that waits for another process hears nothing milder
            process.wait()
