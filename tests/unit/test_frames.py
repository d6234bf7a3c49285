"""The tokenizer's frames: a file that is whole or not there, read in memory that its size does not change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvid import UserError
from cogvid.data.frames import FrameSamples, read_frames_file, write_frames
from cogvid.data.loading import load, step_numbers

FRAMES = torch.randint(256, (10, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def parts() -> Iterator[Tensor]:
    yield from (FRAMES[:4], FRAMES[4:5], FRAMES[5:])


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "frames.npy"
    assert read_frames_file(path, 10) is None
    write_frames(path, 10, parts())
    frames = read_frames_file(path, 10)
    assert isinstance(frames, np.memmap)
    assert np.array_equal(frames, FRAMES.numpy())
    assert [file.name for file in tmp_path.iterdir()] == ["frames.npy"]


def test_frames_that_are_not_all_written_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "frames.npy"

    def interrupted() -> Iterator[Tensor]:
        yield FRAMES[:4]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(path, 10, interrupted())
    assert not path.exists()
    write_frames(path, 10, parts())
    assert read_frames_file(path, 10) is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:50],
        lambda content: b"",
        lambda content: b"x" * 99 + content,
    ],
)
def test_a_damaged_file_of_frames_is_none(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "frames.npy"
    write_frames(path, 10, parts())
    assert read_frames_file(path, 9) is None  # another number of frames was asked for
    path.write_bytes(damage(path.read_bytes()))
    assert read_frames_file(path, 10) is None


def test_frames_that_the_disk_has_no_room_for_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    count = 1 << 55

    def decoded() -> Iterator[Tensor]:
        yield FRAMES[:1]
        pytest.fail("more than one part was decoded")

    with pytest.raises(UserError, match=rf"The {count} frames .* MB are free\. .*stages\.tokenizer\.frames"):
        write_frames(tmp_path / "frames.npy", count, decoded())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_sample_is_the_frame_that_its_step_draws_for_it(tmp_path: Path, ranks: int, workers: int) -> None:
    write_frames(tmp_path / "frames.npy", 10, parts())
    frames = read_frames_file(tmp_path / "frames.npy", 10)
    assert frames is not None
    samples = FrameSamples(frames, 8, seed=5)
    for rank in range(ranks):
        batches = load(samples, step_numbers(8, 2, rank, ranks), workers)
        for step in (2, 3, 4):
            drawn = np.random.default_rng((5, 8 * step)).integers(10, size=8)[rank::ranks]
            assert torch.equal(next(batches), FRAMES[torch.from_numpy(drawn)])
        batches.close()


# Writes a file of so many megabytes, then reads all of it as samples; says how many of its own memory grew by.
PROGRAM = """
import sys
from pathlib import Path
import torch
from cogvid.data.frames import FrameSamples, read_frames_file, write_frames

def memory():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1000

path, count = Path(sys.argv[1]), int(sys.argv[2])
one = torch.arange(100 * 3 * 64 * 64).remainder(251).to(torch.uint8).view(100, 3, 64, 64)
before = memory()
write_frames(path, count, (one.roll(n, 3) for n in range(count // 100)))
samples = FrameSamples(read_frames_file(path, count), 16, seed=0)
total = sum(int(samples[number].sum()) for number in range(count))
print(memory() - before)
"""


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    grown = []
    for count in (500, 5000):  # 6 and 61 MB
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "frames.npy"), str(count)],
            capture_output=True,
            text=True,
            check=True,
        )
        grown.append(float(done.stdout))
    assert grown[1] < grown[0] + 20
