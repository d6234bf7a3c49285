"""Jobs as tasks of a Ray cluster, which decides where and when each runs, and begins it again when a machine is lost.

A job ends with the task that does it: what comes in its place would wait for ever for one that goes on.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Standing
from cogvid.ablation.needs import Needs
from cogvid.ablation.process import GRACE
from cogvid.ablation.remote import Remote, forget_note, read_note
from cogvid.compare.trouble import LOG, add_last_words
from cogvid.config.ranges import above, at_least, between, not_blank, option
from cogvid.errors import UserError

log = logging.getLogger("cogvid")
_GB = 10**9


@dataclass
class RayOptions:
    """Which cluster, and what of it each job gets."""

    address: str = option("auto", not_blank())  # auto: of RAY_ADDRESS, or the one that this machine is part of
    cpus: int | None = option(None, at_least(1))  # None: a thread of each process
    gpus: int | None = option(None, at_least(0))  # None: trainer.devices of them, where trainer.accelerator is gpu
    memory: float | None = option(None, above(0, 1e5))  # GB
    retries: int = option(10, between(-1, 1000))  # times that a job whose machine is lost begins again; -1: any


class Preempted(Exception):
    """A job was asked to end, and not by this launcher: its machine goes down."""


class Ray:
    """A launcher of tasks of a Ray cluster; they end with this process.

    Args:
        options: the cluster, and what to ask it for.
        needs: of each job.

    Raises:
        UserError: Ray is not installed, or the cluster is not found.
    """

    def __init__(self, options: RayOptions, needs: Needs) -> None:
        try:
            import ray
        except ImportError as error:
            raise UserError(
                'The launcher ray needs Ray, which is not installed: pip install "cogvid[ray]" does it.'
            ) from error
        self._ray = ray
        with _own_signals():
            try:
                ray.init(options.address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
            except (ConnectionError, ValueError, RuntimeError) as error:
                said = " ".join(str(error).split()).rstrip(".")
                raise UserError(
                    f"The launcher ray finds no cluster at {options.address}: {said}. "
                    "Start one with `ray start --head`, or say where it is: --launcher-options address=..."
                ) from error
        cpus, gpus = options.cpus or needs.cpus, needs.gpus if options.gpus is None else options.gpus
        self._see_that_there_is_room(cpus, gpus)
        memory = None if options.memory is None else int(options.memory * _GB)
        self._do = ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            memory=memory,
            max_retries=options.retries,
            retry_exceptions=[Preempted],
        )(do)
        path = os.environ.get("PYTHONPATH")
        self._environment = needs.environment(cpus) | ({} if path is None else {"PYTHONPATH": path})
        self._tasks: dict[Work, Any] = {}
        self._ended: dict[Work, Standing] = {}

    def submit(self, job: Work) -> None:
        forget_note(job.folder)
        self._tasks[job] = self._do.remote(Remote.of(job, self._environment))

    def poll(self) -> dict[Work, Standing]:
        left = self._left()
        ready = set(self._ray.wait([*left.values()], num_returns=len(left), timeout=0)[0]) if left else set()
        for job, task in left.items():
            if task in ready:
                self._ended[job] = self._outcome(job, task)
        return {job: self._ended.get(job) or _of_note(job) for job in self._tasks}

    def end(self, job: Work) -> None:
        self._ray.cancel(self._tasks[job])

    def cancel(self) -> None:
        left = [*self._left().values()]
        for task in left:
            self._ray.cancel(task)
        if left:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=GRACE + 10)
        for task in left:
            self._ray.cancel(task, force=True)

    def _left(self) -> dict[Work, Any]:
        return {job: task for job, task in self._tasks.items() if job not in self._ended}

    def _outcome(self, job: Work, task: Any) -> Standing:
        try:
            standing: Standing = self._ray.get(task)
        except (self._ray.exceptions.RayError, Preempted) as error:
            why = getattr(error, "cause", None) or error
            lines = [line for line in str(why).splitlines() if line.strip()]
            cause = f"{type(why).__name__}: {lines[0].strip().rstrip('.') if lines else 'no message'}"
            job.folder.mkdir(parents=True, exist_ok=True)
            add_last_words(job.folder / LOG, cause)
            return Standing("failed", cause=cause)
        return standing

    def _see_that_there_is_room(self, cpus: int, gpus: int) -> None:
        """Say it where no machine can ever do a job: Ray waits for one that comes."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(machine.get("CPU", 0) >= cpus and machine.get("GPU", 0) >= gpus for machine in machines):
            log.warning(
                "no machine of the Ray cluster has %d CPUs and %d GPUs, which each job asks for: the jobs wait until "
                "one joins it",
                cpus,
                gpus,
            )


def do(remote: Remote) -> Standing:
    """What a task does, on the machine where Ray puts it."""
    standing = remote()
    if remote.process is not None and remote.process.asked_to_end:
        raise Preempted("SIGTERM ended the job, again and again")
    return standing


def _of_note(job: Work) -> Standing:
    note = read_note(job.folder)
    return note if note.phase == "running" else Standing("queued")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what this process does on a signal: Ray would have it end at once, and its jobs in the middle of a step."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
