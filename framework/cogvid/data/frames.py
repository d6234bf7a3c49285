"""The frames that a frame tokenizer trains on: written to a file once, read out of it sample by sample."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cogvid.errors import UserError

log = logging.getLogger("cogvid")


def write_frames(path: Path, count: int, parts: Iterator[Tensor]) -> None:
    """Write frames to a NumPy file as they come; it is whole or not there.

    Args:
        path: of the file.
        count: of all frames.
        parts: uint8 (T, 3, height, width) each, of one size.

    Raises:
        UserError: there is no room for them.
    """
    first = next(parts)
    shape = (count, *first.shape[1:])
    needed, free = prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(
            f"The {count} frames that the frame tokenizer trains and is tested on take {needed / 1e6:.1f} MB in "
            f"{path.parent}, where {free / 1e6:.1f} MB are free. Make room, or lower stages.tokenizer.frames."
        )
    log.info("tokenizer: %d frames take %.1f MB on the disk until it is trained", count, needed / 1e6)
    partial, written = path.with_name(f".{path.name}.partial"), 0
    # Not written through memory: a disk that turns full would end the process there and then.
    with partial.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for part in chain([first], parts):
            assert (part.dtype, part.shape[1:]) == (torch.uint8, shape[1:]), (part.dtype, part.shape)
            file.write(part.contiguous().numpy().data)
            written += len(part)
    assert written == count, (written, count)
    partial.replace(path)


def read_frames_file(path: Path, count: int) -> NDArray[np.uint8] | None:
    """The frames uint8 (count, 3, height, width) that `write_frames` wrote, memory-mapped; None if they are not there,
    or not what it wrote."""
    with suppress(OSError, ValueError):
        frames: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="r")
        if frames.dtype == np.uint8 and frames.ndim == 4 and len(frames) == count:
            return frames
    return None


@dataclass(frozen=True)
class FrameSamples(Dataset[Tensor]):
    """The samples that a frame tokenizer learns from: frames, any one as likely as any other.

    Attributes:
        frames: uint8 (all, 3, height, width).
        batch_size: of a step; its samples are drawn together.
        seed: of the stage.
    """

    frames: NDArray[np.uint8]
    batch_size: int
    seed: int

    def place(self, number: int) -> int:
        """Which frame the n-th sample is."""
        step, place = divmod(number, self.batch_size)
        return int(_drawn(self.seed, step * self.batch_size, self.batch_size, len(self.frames))[place])

    def __getitem__(self, number: int) -> Tensor:
        """Uint8 (3, height, width)."""
        return torch.from_numpy(np.array(self.frames[self.place(number)]))


@lru_cache(maxsize=1)
def _drawn(seed: int, first: int, size: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, first)).integers(count, size=size)
