"""Reads a page as its reader would: writes its files, and runs its commands from top to bottom in an empty folder."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.data.video import write_video

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:<!-- (?:file: (?P<file>\S+)|(?P<tree>tree)) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)```", re.DOTALL
)
# A block of this language says what the command before it prints, or some lines of it.
PRINTED = "text"
TEST = re.compile(r"python -m pytest -q (\w+\.py)")
# What needs a shell, or starts other processes by the command line of this one.
OWN = re.compile(r"[|&;<>$*`\\]|devices=[^1]|num_nodes=")

# In place of the experiments of these names: the same, as small as they go.
SMALL = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 12, test_clips: 8, durations: [1]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 16, codes: 32, code_size: 8, crop: 16}}
model: {layers: 1, width: 32, heads: 2}
text: {length: 60}
text_tokenizer: {name: bpe, options: {vocabulary: 300}}
stages:
  tokenizer: {steps: 2, batch_size: 2}
  image_base: {steps: 2, batch_size: 2}
  sequential: {steps: 2, batch_size: 2}
  interpolation: {steps: 2, batch_size: 2}
generation: {samples: 2}
evaluation: {metrics: {oracle: {name: shapes_oracle}}}
"""


@pytest.fixture(scope="session")
def tried() -> set[str]:
    """The programs that a page has called as they are installed."""
    return set()


@pytest.fixture
def read(tmp_path: Path, tried: set[str]) -> Callable[..., list[str]]:
    """Does what a page says, and returns its commands; `commands=False` runs none of them, and `elsewhere` is a page
    whose commands a test of its own runs: those that are the same, in lines of their own, are not run here again.
    `programs` is a folder whose programs come before all others; then every command is a process of its own.

    `<!-- file: NAME -->` above a block writes it, `<!-- tree -->` makes the videos it lists.
    """
    write_small(tmp_path)

    def read(page: str, commands: bool = True, elsewhere: str = "", programs: Path | None = None) -> list[str]:
        ran: list[str] = []
        folder, printed = tmp_path, ""
        for block in BLOCK.finditer(page):
            if block["file"]:
                (folder / block["file"]).parent.mkdir(parents=True, exist_ok=True)
                (folder / block["file"]).write_text(block["body"])
            elif block["tree"]:
                for name in block["body"].strip().splitlines():
                    make_video(folder / name)
            elif block["language"] == PRINTED:
                missing = [line for line in block["body"].splitlines() if _words(line) not in _words(printed)]
                assert not (commands and missing), f"the command prints no such line: {missing[0]}\n{printed}"
            else:
                assert block["language"] == "sh", f"a block that nothing checks: {block['body'][:60]}"
                for line in block["body"].strip().splitlines() if commands else ():
                    ran.append(line)
                    if line in elsewhere.splitlines():
                        continue
                    if line.startswith("cd ") and not OWN.search(line):
                        folder /= line.removeprefix("cd ")
                        write_small(folder)
                        continue
                    # The first of a program as it is installed: each process takes seconds to import what it needs.
                    program = line.split()[0]
                    here = program in tried and not programs and not OWN.search(line)
                    if here and program == "cogvid":
                        printed = _invoke(line, folder)
                    elif here and (test := TEST.fullmatch(line)):
                        _test(test[1], folder)
                    else:
                        tried.add(program)
                        printed = _run(line, folder, programs)
        return ran

    return read


def write_small(folder: Path) -> None:
    """Experiments that are smaller than those which come with cogvid; they are found first in the folder."""
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "experiments" / "quickstart.yaml").write_text(SMALL)
    (folder / "experiments" / "ablation_attention.yaml").write_text(
        "base: [quickstart]\nvariants: {local3d: {}, naive: {attention: naive}}\n"
    )


def _words(text: str) -> str:
    """Without spaces that align, and without the frames of tables."""
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", text).split())


def make_video(path: Path) -> None:
    """A small video of its own: 20 frames of noise, 8 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(path.name.encode()))
    partial = path.with_suffix(".mp4")
    write_video(partial, np.repeat(random.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8), 20, axis=0), fps=8)
    partial.rename(path)


def _invoke(line: str, folder: Path) -> str:
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, f"$ {line}\n{result.output[-4000:]}"
    return result.output


def _test(file: str, folder: Path) -> None:
    with contextlib.chdir(folder):
        found = {name: value for name, value in runpy.run_path(file).items() if name.startswith("test_")}
        assert found
        for test in found.values():
            test()


def _run(line: str, folder: Path, programs: Path | None = None) -> str:
    first = [str(programs)] if programs else []
    path = os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]])
    if line.startswith("make "):
        # The targets themselves take minutes; that they exist and what they call is cheap to see.
        line, folder = line.replace("make ", "make --dry-run "), ROOT
    done = subprocess.run(
        line, shell=True, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout
