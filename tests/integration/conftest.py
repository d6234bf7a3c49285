"""A run so small that the whole pipeline takes seconds, and jobs of several processes that do it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cogvid.cli import app

TINY = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 24, test_clips: 16, durations: [1, 2]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}
model: {layers: 2, width: 32, heads: 2}
text: {length: 40}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
trainer: {log_every: 1}
stages:
  tokenizer: {steps: 6, batch_size: 8, adam_lr: 1.0e-3, checkpoint_every: 2}
  image_base: {steps: 6, batch_size: 4, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
  sequential: {steps: 6, batch_size: 2, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
  interpolation: {steps: 6, batch_size: 2, adam_lr: 1.0e-3, muon_lr: 0.01, checkpoint_every: 2}
generation: {samples: 4, frames: 9, batch_size: 4}
evaluation:
  metrics:
    oracle: {name: shapes_oracle, options: {}}
variants:
  local: {}
  all: {attention: naive}
"""


@pytest.fixture(scope="session")
def tiny_text() -> str:
    """The experiment itself."""
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment file in an empty folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Path:
    """A folder with the experiment and its finished run; what changes anything there has a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(tiny_text)
    result = CliRunner().invoke(app, ["run", str(folder / "tiny.yaml"), "--runs", str(folder / "runs")])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def run(finished: Path) -> Path:
    """The folder of that run."""
    return finished / "runs" / "tiny" / "default" / "0"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


# What a forked process does: it becomes what `python -c CODE WORDS` is in this environment, and is killed by Ctrl-C.
_BECOME = """
import multiprocessing, os, signal, sys
multiprocessing.set_start_method(None, force=True)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.setsid()
os.environ.clear()
os.environ.update(environment)
for number, path in ((1, out), (2, said)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
os.chdir(folder)
sys.argv, sys.orig_argv = ["-c", *words], [sys.executable, "-c", code, *words]
exec(code, {"__name__": "__main__"})
"""
COMMAND = "from cogvid.cli import main; main()"


class Forked:
    """A process like `python -c code words`, which has not to import anything; used as `subprocess.Popen` is.

    It has a session of its own.

    Args:
        warm: what forks it.
        notes: an empty folder for what it says.
        code: of Python.
        words: of its command line.
        folder: to work in.
        environment: what it has more than this process's.
    """

    def __init__(
        self,
        warm: ForkServerContext,
        notes: Path,
        code: str,
        words: Sequence[object],
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._out, self._said = notes / "out", notes / "said"
        given = {"out": str(self._out), "said": str(self._said), "environment": {**os.environ, **environment}}
        given |= {"code": code, "words": [str(word) for word in words], "folder": str(folder)}
        self._process = warm.Process(target=exec, args=(_BECOME, given))
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """As far as it has ended; that of a signal is negative."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As far as it has ended."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("cogvid", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Its output and errors, and those of all that it has started, once none of them is left."""
        end = time.monotonic() + (timeout or 200)
        self.wait(timeout)
        with suppress(ProcessLookupError):
            while True:
                os.killpg(self.pid, 0)
                if time.monotonic() > end:
                    raise subprocess.TimeoutExpired("cogvid", timeout or 200)
                time.sleep(0.002)
        return self._out.read_text(), self._said.read_text()

    def send_signal(self, signum: signal.Signals) -> None:
        """To it alone, if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill -9."""
        self.send_signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def fork(warm: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Forked]]:
    """Makes the `Forked` of words, of `cogvid` here by default; in the end none of them is left.

    More names are of environment variables.
    """
    made: list[Forked] = []

    def start(*words: object, code: str = COMMAND, folder: Path = Path(), **environment: str) -> Forked:
        made.append(Forked(warm, tmp_path_factory.mktemp("forked"), code, words, folder.absolute(), environment))
        return made[-1]

    yield start
    for process in made:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


Process = Forked | subprocess.Popen[str]


class Jobs:
    """Commands that several processes do together, and what they leave.

    Args:
        folder: to work in.
        fork: makes processes.
    """

    stages = ("tokenizer", "image_base", "sequential", "interpolation")

    def __init__(self, folder: Path, fork: Callable[..., Forked]) -> None:
        self.folder, self._fork = folder, fork
        self._started: list[Process] = []

    def start(
        self, *words: str, through: Sequence[str] = (), environments: Sequence[Mapping[str, str]] = ({},)
    ) -> list[Process]:
        """`cogvid` with these words, once in each of these environments.

        Args:
            words: of the command.
            through: what Python is told before the name of the module, where another command starts it.
            environments: what each has more than this process's.
        """
        more = {"OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
        if not through:
            return [self._fork(*words, folder=self.folder, **more, **environment) for environment in environments]
        command = [sys.executable, *through, "cogvid", *words]
        new = [
            subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **more, **environment},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for environment in environments
        ]
        self._started += new
        return new

    def run(self, *words: str, **how: Any) -> list[str]:
        """What each process of a job that succeeds says."""
        said = [ended(process) for process in self.start("run", *words, **how)]
        assert all(code == 0 for code, _, _ in said), said
        return [output for _, output, _ in said]

    def histories(self, run: Path) -> dict[str, list[dict[str, float]]]:
        """What the stages of a run have logged, step by step."""
        paths = {stage: self.folder / run / "stages" / stage / "history.jsonl" for stage in self.stages}
        return {stage: [json.loads(line) for line in path.open()] for stage, path in paths.items()}

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process: Process, timeout: float = 200) -> tuple[int, str, str]:
    """A process's exit code, output and errors, once it has ended."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def make_jobs(fork: Callable[..., Forked]) -> Iterator[Callable[[Path], Jobs]]:
    """Makes the `Jobs` of a folder; in the end none of their processes is left."""
    with ExitStack() as made:

        def make(folder: Path) -> Jobs:
            jobs = Jobs(folder, fork)
            made.callback(jobs.close)
            return jobs

        yield make


@pytest.fixture
def jobs(tiny: Path, make_jobs: Callable[[Path], Jobs]) -> Jobs:
    """Commands of several processes in the folder of `tiny.yaml`."""
    return make_jobs(tiny.parent)
