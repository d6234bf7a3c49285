"""A run so small that the whole pipeline takes seconds, and jobs of several processes that do it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

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


class Jobs:
    """Commands that several processes do together, and what they leave.

    Args:
        folder: to work in.
    """

    stages = ("tokenizer", "image_base", "sequential", "interpolation")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *words: str, through: Sequence[str] = ("-m",), environments: Sequence[Mapping[str, str]] = ({},)
    ) -> list[subprocess.Popen[str]]:
        """`cogvid` with these words, once in each of these environments.

        Args:
            words: of the command.
            through: what Python is told before the name of the module.
            environments: what each has more than this process's.
        """
        command = [sys.executable, *through, "cogvid", *words]
        new = [
            subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000", **environment},
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


def ended(process: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str, str]:
    """A process's exit code, output and errors, once it has ended."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def make_jobs() -> Iterator[Callable[[Path], Jobs]]:
    """Makes the `Jobs` of a folder; in the end none of their processes is left."""
    with ExitStack() as made:

        def make(folder: Path) -> Jobs:
            jobs = Jobs(folder)
            made.callback(jobs.close)
            return jobs

        yield make


@pytest.fixture
def jobs(tiny: Path, make_jobs: Callable[[Path], Jobs]) -> Jobs:
    """Commands of several processes in the folder of `tiny.yaml`."""
    return make_jobs(tiny.parent)
