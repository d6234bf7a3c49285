"""Jobs as processes of this machine, a few at once."""

from __future__ import annotations

import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cogvid.ablation.jobs import Job
from cogvid.ablation.launcher import Standing
from cogvid.compare.trouble import LOG, add_last_words, last_words
from cogvid.pipeline.parent import end_with_parent

OUTPUT = "output.txt"
# Seconds that jobs get to finish a step and to write a checkpoint.
_GRACE = 60


@dataclass
class _Running:
    """A process, the share of the machine that it has, and how long its run's log and output were before it; and when
    it is killed, if it was asked to end."""

    process: subprocess.Popen[bytes]
    share: Mapping[str, str]
    log: int
    output: int
    killed_at: float = math.inf


class Local:
    """A launcher of processes on this machine, each with a session of its own; they end with this process.

    Args:
        shares: what the environments of processes that run at once have more; there are as many at once.
    """

    def __init__(self, shares: Sequence[Mapping[str, str]]) -> None:
        self._free = deque(shares)
        self._queued: deque[Job] = deque()
        self._running: dict[Job, _Running] = {}
        self._ended: dict[Job, Standing] = {}

    def submit(self, job: Job) -> None:
        self._queued.append(job)

    def poll(self) -> dict[Job, Standing]:
        for job, running in list(self._running.items()):
            if time.monotonic() > running.killed_at:
                _signal(running.process, signal.SIGKILL)
            code = running.process.poll()
            if code is not None:
                del self._running[job]
                self._free.append(running.share)
                cause = _cause(job.folder, code, running) if code else ""
                self._ended[job] = Standing("failed" if code else "finished", cause=cause)
        while self._queued and self._free:
            self._start(self._queued.popleft(), self._free.popleft())
        host = platform.node()
        return (
            {job: Standing("queued") for job in self._queued}
            | {job: Standing("running", f"{run.process.pid} {host}") for job, run in self._running.items()}
            | self._ended
        )

    def end(self, job: Job) -> None:
        if job in self._queued:
            self._queued.remove(job)
            self._ended[job] = Standing("failed", cause="it was ended before it began")
        elif job in self._running:
            _signal(self._running[job].process, signal.SIGTERM)
            self._running[job].killed_at = time.monotonic() + _GRACE

    def cancel(self) -> None:
        self._queued.clear()
        processes = [running.process for running in self._running.values()]
        try:
            for process in processes:
                _signal(process, signal.SIGTERM)
            end = time.monotonic() + _GRACE
            with suppress(subprocess.TimeoutExpired):
                for process in processes:
                    process.wait(max(0, end - time.monotonic()))
        finally:
            for process in processes:
                _signal(process, signal.SIGKILL)
                process.wait()

    def _start(self, job: Job, share: Mapping[str, str]) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        log, output = _size(job.folder / LOG), _size(job.folder / OUTPUT)
        # Modules are found where this process finds them: not in the current folder, unless it looks there.
        here = {"", os.getcwd()} & set(sys.path)
        command = [sys.executable, *([] if here else ["-P"]), "-m", "cogvid", *job.command]
        with (job.folder / OUTPUT).open("ab") as file:
            process = subprocess.Popen(
                command,
                env=os.environ | share | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        self._running[job] = _Running(process, share, log, output)


def _signal(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    """To a process that has not been waited for, and to those that it has started."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _cause(folder: Path, code: int, running: _Running) -> str:
    """Why a run's process failed, in one line, which its log has from then on."""
    said = last_words(folder / LOG, running.log)
    if not said:
        said = _last_output(folder / OUTPUT, code, running.output)
        add_last_words(folder / LOG, said)
    return said


def _last_output(path: Path, code: int, since: int) -> str:
    if code < 0:
        memory = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}: the process was killed{memory}"
    with path.open("rb") as file:
        file.seek(since)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").split("\n") if line.strip()]
    last = lines[-1].rstrip(".") if lines else "no message"
    return f"UserError: {last.removeprefix('Error: ')}" if last.startswith("Error: ") else f"{last} (exit code {code})"
