"""The peak memory of the processes of real trainings, to hold what `cogvid doctor` predicts to.

A training is `cogvid run` on made-up tokens: three transformers, a few steps each, and neither videos nor previews.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cogvid.errors import UserError
from cogvid.inspect.doctor_hardware import CPU
from cogvid.inspect.doctor_memory import PROCESS

# Runs a command and says the kilobytes that the largest of its processes had. A small process of its own does it: what
# the system counts for a process begins with what the one that started it had.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""

# By itself, glibc keeps freed blocks of up to 32 MB, in pieces that the next tensor may not fit into: what is resident
# is then more than what was ever in use, and how much more depends on the order of sizes.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# Seconds after which a training hangs.
_PATIENCE = 900
_PLUGIN = '''"""Made-up tokens, and a text tokenizer that has learned already."""

from dataclasses import dataclass

import numpy as np

import cogvid
from cogvid.interfaces.token_source import TokenShape, TokenSource


class MadeUp(TokenSource):
    @dataclass
    class Config:
        text: int = 16
        frames: int = 5
        frame_tokens: int = 64
        codes: int = 512

    def __init__(self, config=None):
        super().__init__(config)
        c = self.config
        self.shape = TokenShape(c.text, c.frames, c.frame_tokens, c.codes)

    def check(self):
        pass

    def __len__(self):
        return 64

    def sequence(self, number):
        c, random = self.config, np.random.default_rng(number)
        codes = random.integers(c.codes, size=(c.frames, c.frame_tokens))
        return random.integers(256, size=c.text), np.ones(c.text, dtype=bool), codes


class Bytes(cogvid.TextTokenizer):
    vocabulary = 256

    def encode(self, text):
        return list(text.encode())

    def ends(self, text):
        return list(range(1, len(text) + 1))

    def save(self, folder):
        (folder / "bytes").touch()

    def load(self, folder):
        pass


@cogvid.hookimpl
def register_data_sources():
    return {"made_up": MadeUp}


@cogvid.hookimpl
def register_text_tokenizers():
    return {"bytes": Bytes}
'''


@dataclass(frozen=True)
class Size:
    """A training's.

    Attributes:
        layers, width, heads: of the transformers.
        side: tokens of a frame's side; a sequence has five frames.
        batch_size: of the video stages; the image base, which has one frame a sequence, takes twice as many.
        options: `key=value` more.
    """

    name: str
    layers: int
    width: int
    heads: int
    side: int
    batch_size: int
    options: tuple[str, ...] = ()


SIZES = (
    Size("narrow", 4, 192, 3, 12, 8),
    Size("local with a bias", 4, 128, 4, 8, 16, ("attention={name: local3d, options: {extent: [2,3,3], bias: true}}",)),
    Size("wide", 3, 768, 12, 8, 4),
    Size("deep, Muon", 10, 256, 4, 8, 4, ("stages.sequential.muon_lr=0.01", "stages.interpolation.muon_lr=0.01")),
    Size("checkpointed, in parts", 6, 384, 6, 12, 8, ("model.checkpoint_activations=true", "trainer.accumulate=2")),
)
REHEARSED = (Size("tiny", 2, 32, 2, 4, 4),)
STRATEGIES = {
    "one process": (),
    "ddp": ("trainer.devices=2", "trainer.strategy=ddp"),
    "fsdp2": ("trainer.devices=2", "trainer.strategy=fsdp2"),
}


def write_experiment(size: Size, folder: Path, steps: int) -> Path:
    """Write the experiment of a size, and the plugin that it needs, into a folder."""
    (folder / "made_up.py").write_text(_PLUGIN)
    path = folder / "experiment.yaml"
    stage = f"steps: {steps}, adam_lr: 1.0e-4, checkpoint_every: {steps}"
    video = f"{{{stage}, batch_size: {size.batch_size}}}"
    path.write_text(
        f"""plugins: [./made_up.py]
base: [attention/swin_ar, frame_rate/lowest_fit, interpolation/recursive, evaluation/none, trainer/cpu]
video: {{size: {8 * size.side}, frames: 5}}
text: {{length: 16}}
data: {{name: made_up, options: {{text: 16, frames: 5, frame_tokens: {size.side**2}, codes: 512}}}}
text_tokenizer: {{name: bytes}}
frame_tokenizer: {{name: vqvae, options: {{downsampling: 8, channels: 16, codes: 512, code_size: 8, crop: 0}}}}
model: {{layers: {size.layers}, width: {size.width}, heads: {size.heads}}}
trainer: {{threads: 1, log_every: 1}}
stages:
  tokenizer: {{{stage}, batch_size: 2}}
  image_base: {{{stage}, batch_size: {2 * size.batch_size}}}
  sequential: {video}
  interpolation: {video}
generation: {{frames: 9}}
"""
    )
    return path


def measured_peak(experiment: Path, options: Sequence[str]) -> int:
    """The most bytes that any process of a training had in memory.

    Args:
        experiment: its file.
        options: `key=value` more.

    Raises:
        UserError: the training failed; the message has its last lines.
    """
    log = experiment.with_suffix(".log")
    words = [sys.executable, "-m", "cogvid", "run", str(experiment), "--runs", str(experiment.parent / "runs")]
    command = ["timeout", "-s", "KILL", str(_PATIENCE), *words, *options]
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, *command],
            stdout=subprocess.PIPE,
            stderr=output,
            env=os.environ | GIVE_BACK | {"OMP_NUM_THREADS": "1"},
        )
    if done.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()[-5:]
        raise UserError(f"a training to measure ended with {done.returncode}: {' '.join(lines)}")
    return int(done.stdout) * 1024


@dataclass(frozen=True)
class Compared:
    """What was predicted of a training, and what was measured.

    Attributes:
        size, strategy: of the training.
        predicted, measured: bytes of the process that has most, in the stage that takes most.
        before: bytes of the predicted that a process has before there is a tensor.
    """

    size: str
    strategy: str
    predicted: float
    measured: int
    before: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.predicted / self.measured - 1


def compare(size: Size, strategy: str, folder: Path, steps: int) -> Compared:
    """Predict a training's memory, then run it.

    Args:
        size: of the training.
        strategy: one of `STRATEGIES`.
        folder: empty, for all that it writes.
        steps: of each stage.
    """
    options = [*size.options, *STRATEGIES[strategy]]
    experiment = write_experiment(size, folder, steps)
    # In a process of its own: what this one has had in memory is not what a training begins with.
    words = [sys.executable, "-m", "cogvid", "doctor", str(experiment), *options, "--gpu", CPU, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise UserError(f"cogvid doctor ended with {done.returncode}: {done.stderr.strip()}")
    needs = json.loads(done.stdout)
    found = [each for stage in needs["stages"] for each in stage["memory"] if each["strategy"] == needs["strategy"]]
    most = max(found, key=lambda each: each["total"])
    return Compared(size.name, strategy, most["total"], measured_peak(experiment, options), most["bytes"][PROCESS])
