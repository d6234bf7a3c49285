"""`cogvid data tokenize`, killed at random moments and side by side in parts: the same bytes as undisturbed.

COGVID_INTERRUPTIONS=20 says how often; a few times by default.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.options import checked_options
from cogvid.data.table import read_table
from cogvid.data.video import write_video
from cogvid_plugins.frame_tokenizer.vqvae import VQVAE

# So few clips a shard, and a part of the data stage, that signals meet many of both.
COMMAND = """
from cogvid.pipeline import data_stage, token_plan
data_stage._PART, token_plan._CLIPS = 16, 8
from cogvid.cli import main
main()
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TIMES = int(os.environ.get("COGVID_INTERRUPTIONS", "3"))


@pytest.fixture(scope="module")
def tokenize(fork: Callable[..., Any]) -> Callable[..., Any]:
    """Starts the command."""

    def start(experiment: Path, runs: Path, *words: str) -> Any:
        clips = ["data.options.clips=120", "data.options.test_clips=4", "stages.tokenizer.checkpoint_every=1"]
        return fork("data", "tokenize", experiment, *clips, "--runs", runs, *words, code=COMMAND)

    return start


def ended_well(process: Any) -> str:
    out, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return out


def made(runs: Path) -> dict[str, bytes | pa.Table]:
    """The tokens, and the clip table that they are of."""
    (data,), (tokens,) = ((runs / "stages").glob(f"{name}-*") for name in ("data", "tokens"))
    left = [path.name for stage in (data, tokens) for path in stage.glob(".*") if path.name != ".lock"]
    assert not left, left
    files = {path.name: path.read_bytes() for path in tokens.iterdir() if path.name not in (".lock", "stage.json")}
    return files | {"clips": read_table(data / "clips.arrow")}


def shards(runs: Path) -> int:
    """How many there are."""
    return len(list((runs / "stages").glob("tokens-*/*.safetensors")))


def wait_for(process: Any, seconds: float, runs: Path, count: int) -> None:
    """Wait until there are so many shards; for so many seconds, where it is more than all."""
    end = time.monotonic() + (seconds if count > 16 else 60)
    while time.monotonic() < end and shards(runs) < count:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
            break


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, tiny_text: str, tokenize: Callable[..., Any]
) -> tuple[Path, float, dict]:
    """The experiment, the seconds that it takes, and what it makes."""
    folder = tmp_path_factory.mktemp("tokenize")
    (folder / "tiny.yaml").write_text(tiny_text)
    started = time.monotonic()
    out = ended_well(tokenize(folder / "tiny.yaml", folder / "runs"))
    assert "120 clips, " in out
    assert "in 16 shards" in out
    return folder / "tiny.yaml", time.monotonic() - started, made(folder / "runs")


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * TIMES)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    undisturbed: tuple[Path, float, dict], tmp_path: Path, tokenize: Callable[..., Any]
) -> None:
    experiment, seconds, expected = undisturbed
    draw = random.Random(TIMES)
    done, trial, met = 0, 0, set()
    while done < TIMES:
        runs, trial = tmp_path / str(trial), trial + 1
        process = tokenize(experiment, runs)
        while done < TIMES:
            # At any time, or in the middle of the shards.
            wait_for(process, draw.uniform(0.2, 0.9) * seconds, runs, draw.choice([17, shards(runs) + 1, 8, 15]))
            if process.poll() is None:
                process.send_signal(SIGNALS[done % 3])
            _, said = process.communicate(timeout=60)
            if process.returncode == 0:
                break
            assert process.returncode in (128 + SIGNALS[done % 3], -SIGNALS[done % 3]), said
            # A process that has not come as far as the command just dies of the signal.
            assert process.returncode < 0 or "Traceback" not in said, said
            done += 1
            met.add(shards(runs))
            process = tokenize(experiment, runs)
        if process.returncode is None:
            ended_well(process)
        assert made(runs) == expected
    print(f"{done} interruptions in {trial} trials, with {sorted(met)} of 16 shards there")
    assert met & set(range(1, 16)) or TIMES < 20


@pytest.mark.slow
def test_three_parts_side_by_side_merge_to_the_same_bytes(
    undisturbed: tuple[Path, float, dict], tmp_path: Path, tokenize: Callable[..., Any]
) -> None:
    experiment, _, expected = undisturbed
    parts = [tokenize(experiment, tmp_path / "runs", "--part", f"{number}/3") for number in (1, 2, 3)]
    assert all("with --merge in place of --part" in ended_well(part) for part in parts)
    assert "16 shards" in ended_well(tokenize(experiment, tmp_path / "runs", "--merge"))
    assert made(tmp_path / "runs") == expected


PEAK = """
from pathlib import Path
from cogvid.cli import main
try:
    main()
finally:
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print("peak", peak)
"""
MANY = """
base: [quickstart, data/folder, interpolation/hold]
video: {size: 16, frames: 3}
frame_tokenizer: {name: vqvae, options: {downsampling: 8, channels: 8, codes: 32, code_size: 4, overlap: true}}
"""


def test_its_memory_does_not_grow_with_the_clips(tmp_path: Path, fork: Callable[..., Any]) -> None:
    (tmp_path / "many.yaml").write_text(MANY)
    options = checked_options(VQVAE.Config, {"downsampling": 8, "channels": 8, "codes": 32, "code_size": 4}, "vqvae")
    save_file(VQVAE(options).state_dict(), tmp_path / "weights.safetensors")
    write_video(tmp_path / "video.mp4", np.zeros((12, 16, 16, 3), np.uint8), 8)
    peaks = []
    for count in (40, 400):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(tmp_path / "video.mp4", folder / f"{number}.mp4")
        rows = [{"file": f"{number}.mp4", "caption": "a cat", "split": "train"} for number in range(count)]
        (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = [f"data.options.path={folder}", f"stages.tokenizer.weights={tmp_path / 'weights.safetensors'}"]
        words = ["data", "tokenize", str(tmp_path / "many.yaml"), *changes, "--runs", str(folder / "runs")]
        said = ended_well(fork(*words, code=PEAK))
        assert f"{count} clips" in said
        peaks.append(int(said.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--part", "4/3"], "--part 4/3: write K/N"),
        (["--part", "1"], "--part 1: write K/N"),
        (["--part", "1/2", "--merge"], "give one of the two"),
        (["--from", "there"], "give --merge, too"),
    ],
)
def test_words_that_do_not_go_together_are_refused(tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["data", "tokenize", "none.yaml", "--runs", str(tmp_path / "runs"), *words])
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "runs").exists()
