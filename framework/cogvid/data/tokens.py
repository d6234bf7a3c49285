"""Tokens on disk: shards that hold the codes of many clips each, and a table that says where each clip's are.

A shard is a safetensors file, of which slices are read from pages that processes share. The table is an Arrow file, as
the clip table is (see `cogvid.data.table`); its n-th row is the n-th clip that training draws from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from cogvid.data.table import ClipTable, TimedClip, read_table
from cogvid.errors import UserError

TABLE = "tokens.arrow"
TOKENS = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int32()),  # in the clip table
        ("key", pa.binary(32)),  # of all that decides the clip's codes, beside the frame tokenizer
        ("shard", pa.int32()),
        ("first", pa.int32()),  # of the clip's frames, in the shard
        ("count", pa.int32()),  # frames
        ("error", pa.int64()),  # see Shard.errors
        ("rates", pa.list_(pa.float64())),  # 1/s, that training shows the clip at
    ]
)
# The only entry of a shard's metadata: the library writes several in any order.
_DIGESTS = "cogvid"
# Files that one process keeps open, and clips whose rows it keeps: small data sets are drawn from again and again.
_OPEN, _KEPT = 64, 4096


@dataclass(frozen=True)
class Shard:
    """The codes of some clips on end.

    Attributes:
        codes: uint16 or int32 (frames, rows, columns).
        numbers: int32 (frames,), the number of each frame in its clip, ascending inside the clip.
        errors: int64 (clips,), the sum of the squared differences between the middle one of a clip's frames and its
            reconstruction, both uint8.
    """

    codes: NDArray[Any]
    numbers: NDArray[np.int32]
    errors: NDArray[np.int64]

    @classmethod
    def empty(cls, frames: int, clips: int, rows: int, columns: int, codes: int) -> Shard:
        """Room for the codes of a codebook of `codes`."""
        return cls(
            np.zeros((frames, rows, columns), code_type(codes)), np.zeros(frames, np.int32), np.zeros(clips, np.int64)
        )

    def digest(self) -> str:
        """SHA-256 of all that it holds, in hexadecimal."""
        digest = hashlib.sha256()
        for array in (self.codes, self.numbers, self.errors):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def code_type(codes: int) -> type[np.uint16 | np.int32]:
    """Of the codes of a codebook of this size."""
    return np.uint16 if codes <= 2**16 else np.int32


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{number:05}.safetensors"


def write_shard(path: Path, shard: Shard, keys: str, tag: str = "") -> None:
    """Write a shard that is whole or not there.

    Args:
        path: of the file.
        shard: its content.
        keys: a digest of its clips' keys, which tells it from those of other clips.
        tag: tells processes apart that may write the same shard.
    """
    partial = partial_path(path, tag)
    tensors = {"codes": shard.codes, "numbers": shard.numbers, "errors": shard.errors}
    partial.write_bytes(save(tensors, {_DIGESTS: f"{keys} {shard.digest()}"}))
    partial.replace(path)


def partial_path(path: Path, tag: str = "") -> Path:
    """The name that a shard has until it is whole."""
    return path.with_name(f".{path.name}.{tag}.partial")


def shard_keys(path: Path) -> str:
    """The digest of its clips' keys that a shard was written with.

    Raises:
        UserError: it is damaged.
    """
    with _reading(path), safe_open(path, "numpy") as file:
        return str(file.metadata()[_DIGESTS].split()[0])


def read_shard(path: Path) -> Shard:
    """The whole of a shard, held to what was written.

    Raises:
        UserError: it is damaged.
    """
    with _reading(path), safe_open(path, "numpy") as file:
        shard = Shard(*(file.get_tensor(name) for name in ("codes", "numbers", "errors")))
        if file.metadata()[_DIGESTS].split()[1] != shard.digest():
            raise ValueError("its codes are not those that were written")
        return shard


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"The tokens in {path} are damaged: {error}. Remove this file, or the whole folder {path.parent} if it has "
            "a stage.json, and run the command again: it makes them anew."
        ) from error


class TokenClips(Sequence[TimedClip]):
    """Tokenised clips, read from the clip table and their shards as they are asked for.

    Its memory grows by four bytes a clip. It may go to other processes, pickled or forked: each opens the files
    itself.

    Args:
        folder: of the shards and their table.
        clip_table: the file of the clip table.
    """

    def __init__(self, folder: Path, clip_table: Path) -> None:
        self.folder, self.clip_table = folder, clip_table

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenClips, (self.folder, self.clip_table)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, clip: int) -> TimedClip: ...
    @overload
    def __getitem__(self, clip: slice) -> ClipTable: ...
    def __getitem__(self, clip: int | slice) -> TimedClip | ClipTable:
        return self._clips[clip] if isinstance(clip, slice) else self._clip(clip)

    def frames(self, clip: int, numbers: NDArray[np.int64]) -> Tensor:
        """Codes of the frames with these numbers (F,), which the clip has; int64 (F, rows, columns).

        Raises:
            UserError: a shard is damaged.
        """
        shard, first, count = self._place(clip)
        return torch.from_numpy(self._shard(shard).frames(first, count, numbers).astype(np.int64))

    @cached_property
    def _places(self) -> pa.Table:
        return read_table(self.folder / TABLE)

    @cached_property
    def _clips(self) -> ClipTable:
        rows = self._places.column("row").to_numpy()
        return ClipTable.open(self.clip_table).pick(rows)

    @cached_property
    def _clip(self) -> Callable[[int], TimedClip]:
        return lru_cache(maxsize=_KEPT)(lambda clip: self._clips[clip])

    @cached_property
    def _place(self) -> Callable[[int], tuple[int, int, int]]:
        """Shard, first frame in it, and number of frames, of a clip."""

        def place(clip: int) -> tuple[int, int, int]:
            shard, first, count = (self._places.column(name)[clip].as_py() for name in ("shard", "first", "count"))
            return shard, first, count

        return lru_cache(maxsize=_KEPT)(place)

    @cached_property
    def _shard(self) -> Callable[[int], ShardReader]:
        return lru_cache(maxsize=_OPEN)(lambda number: ShardReader(shard_path(self.folder, number)))


class ShardReader:
    """Reads frames of clips from an open shard.

    Raises:
        UserError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path):
            file: Any = safe_open(path, "numpy")
            self._codes, self._numbers = (file.get_slice(name) for name in ("codes", "numbers"))

    def clip(self, first: int, count: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Codes and numbers of all frames of a clip."""
        return self._codes[first : first + count], self._numbers[first : first + count]

    def frames(self, first: int, count: int, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Codes of some frames of the clip whose `count` frames begin at `first`, by their numbers in it."""
        own = self._numbers[first : first + count]
        places = np.searchsorted(own, numbers)
        assert np.array_equal(own.take(places, mode="clip"), numbers), (self.path, first, numbers)
        low, high = int(places.min()), int(places.max()) + 1
        codes: NDArray[Any] = self._codes[first + low : first + high]
        return codes[places - low]
