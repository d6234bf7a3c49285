"""Tokens that earlier stages made with the same frame tokenizer: of clips that are as they were."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cogvid.data.table import read_table
from cogvid.data.tokens import TABLE, ShardReader, partial_path, shard_keys, shard_path
from cogvid.errors import UserError
from cogvid.pipeline.digests import first_damaged
from cogvid.pipeline.lab import log
from cogvid.pipeline.stage import StageResult
from cogvid.pipeline.token_plan import key_head

# Shards of one earlier stage that are open at once.
_OPEN = 64


class EarlierTokens:
    """Looks clips up by their keys; what is damaged is passed over.

    Args:
        stages: finished tokens stages, of the same frame tokenizer.
    """

    def __init__(self, stages: Iterable[StageResult]) -> None:
        self._stages: list[_EarlierStage] = []
        for stage in stages:
            try:
                self._stages.append(_EarlierStage(stage))
            except UserError as error:
                log.warning("tokens: earlier ones are passed over: %s", error)

    def __bool__(self) -> bool:
        return bool(self._stages)

    def link(self, path: Path, keys: str, tag: str) -> bool:
        """Make `path` another name of an earlier shard that holds the same; False if there is none, or files cannot
        have two names there.

        Args:
            path: of the new shard.
            keys: the digest of its clips' keys.
            tag: see `write_shard`.
        """
        earlier = next((found for stage in self._stages if (found := stage.same(keys))), None)
        return earlier is not None and linked(earlier, path, tag)

    def has(self, heads: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of some clips are there, by the heads of their keys; bool (clips,)."""
        return np.logical_or.reduce([stage.has(heads) for stage in self._stages] or [np.zeros(len(heads), bool)])

    def find(self, key: bytes) -> tuple[NDArray[Any], NDArray[np.int32], int] | None:
        """Codes, numbers and error (see `Shard`) of the clip with a key; None if no stage has it."""
        for stage in self._stages:
            place = stage.place(key)
            if place is not None:
                return stage.read(place)
        return None


def linked(old: Path, new: Path, tag: str) -> bool:
    """Give a file a second name, which is there at once or not; False where the file system cannot."""
    partial = partial_path(new, tag)
    try:
        partial.unlink(missing_ok=True)
        os.link(old, partial)
        partial.replace(new)
    except OSError:
        return False
    return True


class _EarlierStage:
    def __init__(self, stage: StageResult) -> None:
        self._folder, self._outputs = stage.folder, stage.info["outputs"]
        stage_damage = first_damaged(stage.folder, {TABLE: self._outputs[TABLE]})
        if stage_damage:
            raise UserError(stage_damage)
        self._table = read_table(stage.folder / TABLE)
        # Eight bytes of each key, sorted, and whose they are.
        heads = np.concatenate([np.empty(0, np.uint64), *map(_heads, self._table["key"].chunks)])
        self._rows = np.argsort(heads, kind="stable").astype(np.int32)
        self._heads = heads[self._rows]
        self._shards: dict[str, Path] = {}
        for path in sorted(stage.folder.glob("*.safetensors")):
            with suppress(UserError):  # damage is said where the shard is wanted
                self._shards[shard_keys(path)] = path
        self._whole: dict[str, bool] = {}
        self._reader = lru_cache(maxsize=_OPEN)(lambda number: ShardReader(shard_path(stage.folder, number)))

    def same(self, keys: str) -> Path | None:
        path = self._shards.get(keys)
        return path if path and self._is_whole(path) else None

    def has(self, heads: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if not len(self._heads):
            return np.zeros(len(heads), bool)
        places = np.searchsorted(self._heads, heads).clip(max=len(self._heads) - 1)
        return self._heads[places] == heads

    def place(self, key: bytes) -> int | None:
        """The row of a clip whose shard is whole."""
        head = np.uint64(key_head(key))
        low, high = (int(np.searchsorted(self._heads, head, side)) for side in ("left", "right"))
        for row in self._rows[low:high].tolist():
            if self._table["key"][row].as_py() == key:
                whole = self._is_whole(shard_path(self._folder, self._table["shard"][row].as_py()))
                return row if whole else None
        return None

    def read(self, row: int) -> tuple[NDArray[Any], NDArray[np.int32], int]:
        shard, first, count, error = (self._table[name][row].as_py() for name in ("shard", "first", "count", "error"))
        return *self._reader(shard).clip(first, count), error

    def _is_whole(self, path: Path) -> bool:
        """Whether a shard is what its stage left; all of it is read once."""
        if path.name not in self._whole:
            damage = first_damaged(self._folder, {path.name: self._outputs[path.name]})
            self._whole[path.name] = damage is None
            if damage:
                log.warning("tokens: earlier ones are passed over: %s", damage)
        return self._whole[path.name]


def _heads(keys: pa.FixedSizeBinaryArray) -> NDArray[Any]:
    width = keys.type.byte_width
    values = np.frombuffer(keys.buffers()[1], np.uint8, len(keys) * width, keys.offset * width)
    return np.ascontiguousarray(values.reshape(-1, width)[:, :8]).view(">u8")[:, 0].astype(np.uint64)
