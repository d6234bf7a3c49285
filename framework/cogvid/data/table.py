"""The clip table: one row for each clip of a data set, made once, read by everything after it.

An Arrow IPC file, which pandas, polars and duckdb read too. It is memory-mapped: it opens at once whatever its size,
processes share its pages, and a row is read without those before it. Parquet would be smaller on disk, but each process
would have to decode all of it into memory of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video, VideoFile
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip, Member, Split

# What a source says of a clip.
LISTED = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),  # relative to the table's folder where it is inside
        ("member", pa.string()),  # of an archive; null for a file of its own
        ("offset", pa.int64()),  # of the member in the archive
        ("bytes", pa.int64()),
        ("start", pa.float64()),  # seconds; null for the whole video
        ("end", pa.float64()),
        ("split", pa.string()),
        ("captions", pa.list_(pa.string())),
    ]
)
# What its file holds.
FOUND = pa.schema(
    [
        ("state", pa.string()),  # size and time of the file when it was read; inside the table's folder, its size
        ("sha256", pa.string()),  # of the file's, or the member's, bytes
        ("codec", pa.string()),
        ("pixel_format", pa.string()),
        ("width", pa.int32()),  # pixels, as shown
        ("height", pa.int32()),
        ("first", pa.int32()),  # the clip's first frame, as a number of the file's
        ("frames", pa.int32()),
        ("duration", pa.float64()),  # seconds from the first frame's time to the last one's
        ("reach", pa.float64()),  # seconds, as frame-rate schedulers are told them
        ("times", pa.string()),  # JSON of the time base and the gaps between frames, see ClipTimes.to_json
        ("problem", pa.string()),  # why the clip is left out; empty for a clip that is used
    ]
)
CLIPS = pa.schema([*LISTED, *FOUND])
# Rows that are written, and read, at once.
_BATCH = 4096


@dataclass(frozen=True)
class TimedClip:
    """A clip which decodes to its last frame.

    Attributes:
        clip: file, captions and split.
        times: when its frames are shown.
        first: the number, in its file, of its first frame.
    """

    clip: Clip
    times: ClipTimes
    first: int = 0

    @property
    def duration(self) -> float:
        """Seconds for which it has frames, as frame-rate schedulers are told them."""
        return self.times.reach

    @property
    def captions(self) -> tuple[str, ...]:
        """All of them."""
        return (self.clip.caption, *self.clip.captions)


class ClipTable(Sequence[TimedClip]):
    """Some rows of a clip table, each read when it is asked for.

    Args:
        table: memory-mapped.
        folder: that its relative files start from.
        rows: int32 (clips,), the rows, ascending; None for all.
    """

    def __init__(self, table: pa.Table, folder: Path, rows: NDArray[np.int32] | None = None) -> None:
        self._table, self._folder = table, folder
        self.rows = np.arange(len(table), dtype=np.int32) if rows is None else rows

    @classmethod
    def open(cls, path: Path) -> ClipTable:
        """All rows of a file that `write_table` made."""
        return cls(read_table(path), path.parent)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> TimedClip: ...
    @overload
    def __getitem__(self, place: slice) -> ClipTable: ...
    def __getitem__(self, place: int | slice) -> TimedClip | ClipTable:
        if isinstance(place, slice):
            return self.pick(self.rows[place])
        row = {name: self._table.column(name)[int(self.rows[place])].as_py() for name in _CLIP_COLUMNS}
        return TimedClip(listed_clip(row, self._folder), clip_times(row["times"]), row["first"])

    def pick(self, rows: NDArray[np.int32]) -> ClipTable:
        """These rows of the file."""
        return ClipTable(self._table, self._folder, rows)

    def used(self, split: Split) -> ClipTable:
        """The clips of a split that have no problem."""
        wanted = np.zeros(len(self._table), dtype=bool)
        start = 0
        for batch in self._table.select(["split", "problem"]).to_batches():
            good = pc.and_(pc.equal(batch["split"], split), pc.equal(batch["problem"], ""))
            wanted[start : start + len(good)] = good.to_numpy(zero_copy_only=False)
            start += len(good)
        return self.pick(self.rows[wanted[self.rows]])

    @property
    def columns(self) -> list[str]:
        """The names of what is known of each clip."""
        names: list[str] = self._table.column_names
        return names

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of these clips: a copy, for what is small."""
        return self._table.column(name).take(pa.array(self.rows))

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of these clips, some thousand clips at once, in memory that their number does not change."""
        first, start = 0, 0
        for batch in self._table.select(names).to_batches():
            stop = int(np.searchsorted(self.rows, first + len(batch)))
            if start < stop:
                yield batch.take(pa.array(self.rows[start:stop] - first))
            first, start = first + len(batch), stop

    def timings(self) -> Iterator[tuple[str, float, int]]:
        """The timings of these clips, each with its reach in seconds and how many clips have it."""
        columns = pa.table({name: self.column(name) for name in ("times", "reach")})
        groups = columns.group_by("times", use_threads=False).aggregate([("reach", "min"), ([], "count_all")])
        for batch in groups.to_batches(max_chunksize=_BATCH):
            yield from zip(*(batch[name].to_pylist() for name in ("times", "reach_min", "count_all")), strict=True)

    def values(self, *names: str) -> Iterator[dict[str, Any]]:
        """Some columns of each of these clips, in memory that their number does not change."""
        for batch in self.batches(names):
            yield from batch.to_pylist()


@lru_cache(maxsize=4096)
def clip_times(text: str) -> ClipTimes:
    """What a value of the column `times` says; clips with the same timing share it."""
    return ClipTimes.from_json(json.loads(text))


_CLIP_COLUMNS = [*LISTED.names, "first", "times"]


def listed_row(clip: Clip, folder: Path) -> dict[str, Any]:
    """What the table says of a clip that a source gave.

    Raises:
        UserError: its name is no text.
    """
    inside = clip.path.is_relative_to(folder)
    path = clip.path.relative_to(folder) if inside else Path(os.path.abspath(clip.path))
    member, (start, end) = clip.member, clip.span or (None, None)
    if any("\ud800" <= character <= "\udfff" for character in f"{clip.id}{VideoFile.of(clip)}"):
        problem = f"The video {VideoFile.of(clip)} has a name that is no UTF-8 text. Rename it, or leave it out."
        raise UserError(problem.encode(errors="backslashreplace").decode())  # on disk, a name is any bytes
    return {
        "id": clip.id,
        "file": str(path),
        "member": member and member.name,
        "offset": member and member.offset,
        "bytes": member and member.size,
        "start": start,
        "end": end,
        "split": clip.split,
        "captions": [clip.caption, *clip.captions],
    }


def listed_clip(row: dict[str, Any], folder: Path) -> Clip:
    """The clip of a row of `listed_row`."""
    caption, *captions = row["captions"]
    member = None if row["member"] is None else Member(row["member"], row["offset"], row["bytes"])
    span = None if row["start"] is None else (row["start"], row["end"])
    return Clip(row["id"], folder / row["file"], caption, row["split"], tuple(captions), member, span)


def found_row(clip: Clip, video: Video | UserError) -> dict[str, Any]:
    """What the table says of a clip whose video holds this, or cannot be read for this reason."""
    empty = dict.fromkeys(FOUND.names)
    if isinstance(video, UserError):
        return {**empty, "problem": str(video)}
    size = {"width": video.width, "height": video.height}
    facts = {**empty, "codec": video.codec, "pixel_format": video.pixel_format, **size}
    first, times = 0, video.times
    if clip.span is not None:
        first, stop = video.times.between(*clip.span)
        if first == stop:
            start, end = clip.span
            problem = f"The video {VideoFile.of(clip)} has no frame from second {start:g} to {end:g}."
            return {**facts, "problem": problem}
        times = video.times[first:stop]
    return {
        **facts,
        "first": first,
        "frames": len(times),
        "duration": float(times.duration),
        "reach": times.reach,
        "times": json.dumps(times.to_json()),
        "problem": "",
    }


def write_table(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as they come; the file is whole or not there."""
    partial, rows = path.with_name(f".{path.name}.partial"), iter(rows)
    with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    partial.replace(path)


def read_table(path: Path) -> pa.Table:
    """The whole of a file of `write_table`, memory-mapped.

    Raises:
        UserError: it is damaged.
    """
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"The table {path} is damaged: {error}. Remove its folder, and run the command again."
        ) from error


def table_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, one after the other, in memory that its size does not change."""
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()
