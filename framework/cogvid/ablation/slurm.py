"""Jobs of SLURM, through submitit (github.com/facebookincubator/submitit): whatever ends one of them before its work is
done, it is queued again and goes on from its checkpoint. They do not end with the process that has submitted them."""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Standing
from cogvid.ablation.needs import Needs
from cogvid.ablation.process import GRACE
from cogvid.ablation.remote import Remote, forget_note, read_note, write_note
from cogvid.compare.trouble import LOG, add_last_words
from cogvid.config.ranges import above, at_least, between, not_blank, one_of, option
from cogvid.errors import UserError

# Scripts, pickles and logs of submitit, in the folder of runs: that is on every machine.
_FOLDER = ".submitit"
# In the folder of a job: which one of SLURM's it is.
_SUBMITTED = ".slurm.json"
# Seconds: before the end of its time a job is told; until another machine sees a file; until SLURM kills what it has
# asked to end, at most.
_BEFORE_THE_END, _LAG, _PATIENCE = 120, 15, 600


@dataclass
class SlurmOptions:
    """What SLURM is asked for, for each job."""

    partition: str | None = option(None, not_blank())
    account: str | None = option(None, not_blank())
    qos: str | None = option(None, not_blank())
    constraint: str | None = option(None, not_blank())
    hours: float = option(4.0, above(0, 8760))  # after which a job is queued again
    memory: float | None = option(None, above(0, 1e5))  # GB
    cpus: int | None = option(None, at_least(1))  # None: a thread of each process
    gpus: int | None = option(None, at_least(0))  # None: trainer.devices of them, where trainer.accelerator is gpu
    requeues: int = option(20, between(0, 1000))  # times that a job may be queued again because its time was over
    cluster: str = option("slurm", one_of("slurm", "local"))  # local: submitit's processes on this machine


class Slurm:
    """A launcher of jobs of SLURM.

    Args:
        options: what to ask for.
        needs: of each job.
        runs: folder of all runs, which every machine sees.

    Raises:
        UserError: submitit is not installed, or SLURM's commands are not here.
    """

    def __init__(self, options: SlurmOptions, needs: Needs, runs: Path) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                'The launcher slurm needs submitit, which is not installed: pip install "cogvid[slurm]" does it.'
            ) from error
        self._options = options
        self._kinds = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}
        self._folder = (runs / _FOLDER).absolute()
        limit = {f"{name}_max_num_timeout": options.requeues for name in self._kinds}
        try:
            self._executor = submitit.AutoExecutor(self._folder, options.cluster, **limit)
        except RuntimeError as error:
            raise UserError(
                f"The launcher slurm finds no SLURM here: {str(error).rstrip('.')}. Start the command where jobs are "
                "submitted, such as on a login node."
            ) from error
        cpus = options.cpus or needs.cpus
        self._executor.update_parameters(
            timeout_min=max(1, math.ceil(options.hours * 60)),
            mem_gb=options.memory,
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=cpus,
            gpus_per_node=(needs.gpus if options.gpus is None else options.gpus) or None,
            slurm_partition=options.partition,
            slurm_account=options.account,
            slurm_qos=options.qos,
            slurm_constraint=options.constraint,
            slurm_signal_delay_s=_BEFORE_THE_END,
            slurm_additional_parameters={"requeue": True},
        )
        # A job starts its other processes itself: by this Lightning knows that srun does not (its SLURMEnvironment).
        self._environment = {**needs.environment(cpus), "SLURM_JOB_NAME": "interactive"}
        self._jobs: dict[Work, Any] = {}
        self._over: dict[Work, float] = {}
        self._ended: dict[Work, Standing] = {}

    def submit(self, job: Work) -> None:
        """Take a job; one that an earlier command has submitted, and that is not over, is taken as it is.

        Raises:
            UserError: SLURM refuses it, or it is queued or at work with other settings.
        """
        found = self._found(job)
        self._jobs[job] = self._submitted(job) if found is None else found

    def poll(self) -> dict[Work, Standing]:
        return {job: self._standing(job, submitted) for job, submitted in self._jobs.items()}

    def end(self, job: Work) -> None:
        self._jobs[job].cancel(check=False)

    def cancel(self) -> None:
        left = {job: submitted for job, submitted in self._jobs.items() if not submitted.done()}
        for submitted in left.values():
            submitted.cancel(check=False)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and any(
            read_note(job.folder).phase == "running" and not submitted.done() for job, submitted in left.items()
        ):
            time.sleep(0.5)

    def _submitted(self, job: Work) -> Any:
        job.folder.mkdir(parents=True, exist_ok=True)
        forget_note(job.folder)
        self._executor.update_parameters(name=f"cogvid-{re.sub(r'[^A-Za-z0-9_.]+', '-', job.title)}")
        try:
            submitted = self._executor.submit(Resumable.of(job, self._environment))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"SLURM does not take {job.title}: {said.rstrip('.')}. Change --launcher-options."
            ) from error
        kept = {"id": submitted.job_id, "command": job.command}
        (job.folder / _SUBMITTED).write_text(json.dumps(kept) + "\n", encoding="utf-8")
        return submitted

    def _found(self, job: Work) -> Any:
        """The job of an earlier command, while it is not over; None where there is none, or nothing is known of it: the
        lock of its run keeps a second one from the same work."""
        kept = _kept(job.folder)
        if kept is None:
            return None
        number, command = kept
        found = self._kinds[self._options.cluster](self._folder, number)
        if found.done(force_check=True) or found.state == "UNKNOWN":
            return None
        if command != job.command:
            raise UserError(
                f"{job.title} is job {number} of SLURM already, with other settings (cogvid {shlex.join(command)}). "
                f"Let it finish, or end it: scancel {number}"
            )
        return found

    def _standing(self, job: Work, submitted: Any) -> Standing:
        if job in self._ended:
            return self._ended[job]
        over, note = submitted.done(), read_note(job.folder)
        if not over:
            return note if note.phase == "running" else Standing("queued")
        if not note.ended:
            if time.monotonic() - self._over.setdefault(job, time.monotonic()) < _LAG:
                return Standing("running", note.owner)
            note = Standing("failed", cause=_cause(submitted))
            add_last_words(job.folder / LOG, note.cause)
        self._ended[job] = note
        (job.folder / _SUBMITTED).unlink(missing_ok=True)
        return note


@dataclass
class Resumable(Remote):
    """As submitit wants a job that may be interrupted."""

    def __call__(self) -> Standing:
        signal.signal(signal.SIGTERM, self._ask)
        standing = super().__call__()
        if self.process is not None and self.process.asked_to_end:
            # Now SLURM either tells submitit to queue the job again, or kills it: it says no sooner which.
            write_note(self.folder, Standing("queued"))
            time.sleep(_PATIENCE)
        return standing

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.process is not None:
            self.process.signal(signal.SIGTERM)

    def checkpoint(self) -> Any:
        """Called by submitit where the job's time is over, or others need its machine: what is to be queued again."""
        from submitit.helpers import DelayedSubmission

        self.end()
        return DelayedSubmission(replace(self))


def _kept(folder: Path) -> tuple[str, list[str]] | None:
    """Number and command of the job that was submitted last."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads((folder / _SUBMITTED).read_text(encoding="utf-8"))
        return str(kept["id"]), [str(word) for word in kept["command"]]
    return None


def _cause(submitted: Any) -> str:
    """Why a job is over that did not say how it ended."""
    said = [line.strip() for line in (submitted.stderr() or "").splitlines() if line.strip()]
    return f"SLURM's job {submitted.job_id} is {submitted.state}" + (f": {said[-1].rstrip('.')}" if said else "")
