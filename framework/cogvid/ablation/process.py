"""The process of a job, on the machine where it runs: what it says is kept, and why it failed is learnt from that."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cogvid.ablation.launcher import Standing
from cogvid.compare.trouble import LOG, add_last_words, last_words
from cogvid.pipeline.parent import end_with_parent

OUTPUT = "output.txt"
# Seconds that jobs get to finish a step and to write a checkpoint.
GRACE = 60
_LOOK = 0.05
# What a shell reports for a command that a signal stopped: this and the signal's number.
_BY_SIGNAL = 128


def python(words: Sequence[str]) -> list[str]:
    """The words that `cogvid words` is here: modules are found where this process finds them, and not in the current
    folder, unless it looks there."""
    here = {"", os.getcwd()} & set(sys.path)
    return [sys.executable, *([] if here else ["-P"]), "-m", "cogvid", *words]


class Process:
    """A process with a session of its own, which ends with the one that starts it.

    Args:
        words: of its command line.
        folder: made when needed; gets `output.txt`, behind what earlier attempts said.
        environment: what it has more than this process's.
        here: its current folder; that of this process by default.

    Attributes:
        owner: `PID HOST`, as it writes it into the locks that it holds.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], here: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._log, self._output = _size(folder / LOG), _size(folder / OUTPUT)
        with (folder / OUTPUT).open("ab") as file:
            self._process = subprocess.Popen(
                words,
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
                cwd=here,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_apart,
            )
        self.owner = f"{self._process.pid} {platform.node()}"

    @property
    def asked_to_end(self) -> bool:
        """Whether SIGTERM ended it: it goes on when it is started again."""
        return self._process.returncode in (-signal.SIGTERM, _BY_SIGNAL + signal.SIGTERM)

    def standing(self) -> Standing:
        """How far it is; the log says why it failed, from then on."""
        code = self._process.poll()
        if code is None:
            return Standing("running", self.owner)
        return Standing("failed", cause=self._cause(code)) if code else Standing("finished")

    def signal(self, signum: signal.Signals) -> None:
        """To it, if it has not been waited for, and to those that it has started."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def wait(self, seconds: float) -> None:
        """Until it has ended, or so long; other than `Popen.wait`, a signal's handler may do it in the middle of it."""
        until = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK)

    def _cause(self, code: int) -> str:
        """In one line."""
        said = last_words(self._folder / LOG, self._log)
        if not said:
            said = _last_output(self._folder / OUTPUT, code, self._output)
            add_last_words(self._folder / LOG, said)
        return said


def end(processes: Sequence[Process]) -> None:
    """End processes so that they can go on from where they are; those that do not hear it, anyway."""
    try:
        for process in processes:
            process.signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        for process in processes:
            process.wait(max(0, until - time.monotonic()))
    finally:
        for process in processes:
            process.signal(signal.SIGKILL)
            process.wait(GRACE)


def _apart() -> None:
    """In a process that has just been forked."""
    end_with_parent()
    # SLURM may say it to all processes that a job's time is over: who has started this one sees to that.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _last_output(path: Path, code: int, since: int) -> str:
    if code < 0:
        memory = ", most likely because memory ran out" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}: the process was killed{memory}"
    with path.open("rb") as file:
        file.seek(since)
        lines = [line.strip() for line in file.read().decode("utf-8", errors="replace").split("\n") if line.strip()]
    last = lines[-1].rstrip(".") if lines else "no message"
    return f"UserError: {last.removeprefix('Error: ')}" if last.startswith("Error: ") else f"{last} (exit code {code})"
