"""Of `cogvid bench data`: a clip table of a million made-up clips, opened and drawn from in a fresh process."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cogvid.bench.measure import kilobytes
from cogvid.bench.memory import in_fresh_process
from cogvid.config.schema import ExperimentConfig
from cogvid.data.samples import SequenceSampler
from cogvid.data.table import CLIPS, ClipTable
from cogvid.errors import UserError
from cogvid.pipeline.clips import TABLE, usable_clips, warn_of_data
from cogvid.pipeline.lab import Lab

_PART = 4096
# One clip in so many has frames at times of its own, one is of the split test, and one cannot be read.
_VARIABLE, _TEST, _BROKEN = 20, 50, 100
_UNITS = ("1001/30000", "1/25", "1/30")


@dataclass
class TableResult:
    """Of a table.

    Attributes:
        rows: in it.
        bytes: of its file.
        clips: of the training split that can be shown.
        open_s: seconds to open it and to find the clips that can be shown.
        warn_s: seconds of what a run says of its data when it starts.
        permutation_s: seconds of the first draw of an epoch, which orders all clips.
        draws_s: seconds of each draw after it.
        peak: bytes by which opening made the process grow at most; the pages of the file, which processes share, are
            among them. None where Linux does not say.
        own: bytes that are the process's own alone, once it has drawn.
    """

    rows: int
    bytes: int
    clips: int = 0
    open_s: float = 0.0
    warn_s: float = 0.0
    permutation_s: float = 0.0
    draws_s: Sequence[float] = ()
    peak: int | None = None
    own: int | None = None

    @property
    def draw_s(self) -> float:
        """Seconds of a draw, the median."""
        return statistics.median(self.draws_s)


def run_table(folder: Path, config: ExperimentConfig, rows: int, draws: int) -> TableResult:
    """Write the table, check what is read of it, and measure a fresh process.

    Args:
        folder: for the table.
        config: the experiment, whose scheduler says which clips can be shown.
        rows: clips.
        draws: how many samples are drawn.

    Raises:
        UserError: a row is not what was written, or the process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TABLE
    write_made_table(path, rows)
    for row in (0, rows // 2, rows - 1):
        if ClipTable.open(path)[row].clip.id != f"clip-{row}":
            raise UserError(f"Not timed, because the check failed: row {row} of {path} is another clip.")
    found: TableResult | None = in_fresh_process(_measured, folder, config, rows, draws)
    if found is None:
        raise UserError(f"The process that opened the table of {rows} clips was killed.")
    return found


def _measured(folder: Path, config: ExperimentConfig, rows: int, draws: int) -> TableResult:
    lab = Lab(config)
    result = TableResult(rows, (folder / TABLE).stat().st_size)
    resident, own = (kilobytes("/proc/self/status", key) for key in ("VmRSS", "RssAnon"))
    start = time.perf_counter()
    clips = usable_clips(lab, folder, "train")
    result.open_s = time.perf_counter() - start
    result.clips = len(clips)
    peak = kilobytes("/proc/self/status", "VmHWM")
    if peak is not None and resident is not None:
        result.peak = peak - resident
    frames, seconds = lab.config.video.frames, []
    sampler = SequenceSampler(clips, lab.scheduler, [lab.key_frame_times], frames, lab.config.seed)
    for number in range(draws + 1):
        start = time.perf_counter()
        sampler.choose(number)
        seconds.append(time.perf_counter() - start)
    result.permutation_s, *result.draws_s = seconds
    drawn = kilobytes("/proc/self/status", "RssAnon")
    if drawn is not None and own is not None:
        result.own = drawn - own
    start = time.perf_counter()
    warn_of_data(lab, folder)
    result.warn_s = time.perf_counter() - start
    return result


def write_made_table(path: Path, rows: int) -> None:
    """A clip table of made-up clips, as long in every column as a real one's."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, CLIPS) as writer:
        for start in range(0, rows, _PART):
            writer.write_batch(_rows(np.arange(start, min(start + _PART, rows))))


def _rows(numbers: NDArray[np.int64]) -> pa.RecordBatch:
    random = np.random.default_rng(int(numbers[0]))
    frames = random.integers(50, 300, len(numbers))
    units = [_UNITS[number % 3] for number in numbers.tolist()]
    gaps = [[[count - 1, 1]] for count in frames.tolist()]
    for place in np.flatnonzero(numbers % _VARIABLE == 0).tolist():
        own = [[1, gap] for gap in random.integers(30, 37, 12).tolist()]
        units[place], gaps[place] = "1/1000", [*own, [int(frames[place]) - 13, 33]]
    seconds = [
        float(sum(count * gap for count, gap in own) * Fraction(unit)) for own, unit in zip(gaps, units, strict=True)
    ]
    number = pc.cast(pa.array(numbers), pa.string())

    def text(before: str, after: str = "") -> pa.Array:
        return pc.binary_join_element_wise(before, number, after, "")

    captions = text("somebody does something in a room with a window, take ")
    broken = numbers % _BROKEN == 1
    columns = {
        "id": text("clip-"),
        "file": text("/data/videos/a folder of videos/part of the videos/", ".mp4"),
        "split": pa.array(np.where(numbers % _TEST == 2, "test", "train")),
        "captions": pa.ListArray.from_arrays(np.arange(len(numbers) + 1, dtype=np.int32), captions),
        "state": text("1234567 1700000000", "000000000"),
        "sha256": pa.array([f"{number:064x}" for number in numbers.tolist()]),
        "codec": pa.array(["h264"] * len(numbers)),
        "width": pa.array([340] * len(numbers), pa.int32()),
        "height": pa.array([256] * len(numbers), pa.int32()),
        "first": pa.array([0] * len(numbers), pa.int32()),
        "frames": pa.array(frames, pa.int32()),
        "duration": pa.array(seconds),
        "reach": pa.array([each + 1 / 60 for each in seconds]),
        "times": pa.array([json.dumps({"unit": unit, "gaps": own}) for own, unit in zip(gaps, units, strict=True)]),
        "problem": pc.if_else(pa.array(broken), text("The video ", " cannot be read: it has no frames."), ""),
    }
    empty = {each.name: pa.nulls(len(numbers), each.type) for each in CLIPS if each.name not in columns}
    return pa.RecordBatch.from_pydict(columns | empty, schema=CLIPS)
