"""What a check of a data set found, in numbers: problems by kind, totals, and a table of all clips as a file."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cogvid.data.files import VideoFile
from cogvid.data.table import CLIPS, clip_times, table_rows, write_table
from cogvid.errors import UserError
from cogvid.inspect.data_check import Checked
from cogvid.interfaces.data_source import Member
from cogvid.pipeline.clips import repeats_by_timing

SUFFIXES = (".csv", ".arrow")
# Values of a total that are shown; the others are counted.
_SHOWN = 5
# Columns that are for programs.
_INNER = {"state", "first", "times", "reach"}
_OF_EXPERIMENTS = {"split", "captions"}


@dataclass(frozen=True)
class Finding:
    """A kind of problem: how many clips have it, and one of them."""

    kind: str
    clips: int
    example: str


@dataclass(frozen=True)
class DataReport:
    """The numbers of a check."""

    checked: Checked

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Which clips training, or a test, can show."""
        whole = pc.equal(self._column("problem"), "").to_numpy()
        return whole & self._fitting if self.checked.lab else whole

    @property
    def trains(self) -> bool:
        """Whether there is anything to train on."""
        if not self.checked.lab:
            return bool(self.usable.any())
        return bool((self.usable & pc.equal(self._column("split"), "train").to_numpy()).any())

    def left_out(self) -> list[Finding]:
        """Why clips cannot be used, the most frequent first."""
        clips, kinds, examples = self.checked.clips, Counter[str](), dict[str, str]()
        named = clips.select(["file", "member", "offset", "bytes", "problem"])
        for row in table_rows(named.filter(pc.not_equal(clips["problem"], ""))):
            file = self._file(row)
            kind = kind_of(row["problem"], file)
            kinds[kind] += 1
            examples.setdefault(kind, file)
        findings = [Finding(kind, count, examples[kind]) for kind, count in kinds.most_common()]
        if self.checked.lab:
            short = pc.equal(self._column("problem"), "").to_numpy() & ~self._fitting
            findings += self._findings(f"too short for every rate of frame_rate {self._scheduler}", short)
        return findings

    def remarks(self) -> list[Finding]:
        """What should be known of clips that can be used."""
        clips, findings = self.checked.clips, []
        if lab := self.checked.lab:
            repeats = repeats_by_timing(lab)
            shown = self._used("times")["times"].combine_chunks().dictionary_encode()
            twice = [repeats(times, clip_times(times).reach) for times in shown.dictionary.to_pylist()]
            rows = np.zeros(len(clips), dtype=bool)
            rows[np.flatnonzero(self.usable)] = np.array(twice, dtype=bool)[shown.indices.to_numpy()]
            kind = f"fewer frames a second than frame_rate {self._scheduler} asks for: some are shown twice in a row"
            findings += self._findings(kind, rows)
        else:
            findings += self._findings("a single frame", pc.fill_null(pc.equal(clips["frames"], 1), False).to_numpy())
        return [*findings, *self._copies()]

    def totals(self) -> list[tuple[str, str]]:
        """What there is, in words and numbers."""
        clips = self._used("duration", "frames", "width", "height", "codec", "split")
        seconds, frames = clips["duration"].to_pylist(), clips["frames"].to_pylist()
        mean = list(map(_frame_rate, frames, seconds))
        rates = Counter(f"{rate:.4g}" if rate else "single frames" for rate in mean)
        sizes = Counter(
            f"{width}x{height}"
            for width, height in zip(*(clips[n].to_pylist() for n in ("width", "height")), strict=True)
        )
        files = self.checked.clips.group_by("file").aggregate([("state", "min")])["state_min"].drop_null()
        names = {"train": "of the split train", "test": "of the split test"} if self.checked.lab else {}
        splits = Counter(clips["split"].to_pylist())
        return [
            ("clips", f"{len(self.checked.clips):,}"),
            ("can be used", f"{len(clips):,}"),
            *((name, f"{splits[split]:,}") for split, name in names.items()),
            ("frames", f"{sum(frames):,}"),
            ("duration", _time(sum(count / rate for count, rate in zip(frames, mean, strict=True) if rate))),
            ("files", _bytes(sum(int(state.split()[0]) for state in files.to_pylist()))),
            ("width x height", _counts(sizes)),
            ("codecs", _counts(Counter(clips["codec"].to_pylist()))),
            ("frames a second", _counts(rates)),
        ]

    def write(self, path: Path) -> None:
        """Write all clips as a table, CSV or Arrow by the suffix.

        Raises:
            UserError: it cannot be written.
        """
        try:
            if path.suffix == ".arrow":
                write_table(path, self._schema, self._rows())
            else:
                _write_csv(path, self._schema.names, self._rows())
        except OSError as error:
            raise UserError(f"The table {path} cannot be written: {error.strerror}. Choose another --out.") from error

    @cached_property
    def _schema(self) -> pa.Schema:
        aside = _INNER if self.checked.lab else _INNER | _OF_EXPERIMENTS
        rates = [("rates", pa.list_(pa.float64()))] if self.checked.lab else []
        columns = [field for field in CLIPS if field.name not in aside]
        return pa.schema([*columns[:-1], ("frame_rate", pa.float64()), *rates, ("used", pa.bool_()), columns[-1]])

    def _rows(self) -> Iterator[dict[str, Any]]:
        for row, used in zip(table_rows(self.checked.clips), self.usable.tolist(), strict=True):
            row |= {"frame_rate": _frame_rate(row["frames"], row["duration"]), "used": used}
            if self.checked.lab:
                row["rates"] = self._rates.get(row["reach"])
            yield {name: row[name] for name in self._schema.names}

    @property
    def _scheduler(self) -> str:
        assert self.checked.lab
        return self.checked.lab.config.frame_rate.name

    @cached_property
    def _rates(self) -> dict[float, list[float]]:
        """The rates at which training may show a clip, by what schedulers are told of it."""
        assert self.checked.lab
        frames, reach = self.checked.lab.config.video.frames, pc.unique(self._column("reach")).drop_null()
        return {each: self.checked.lab.scheduler.training_rates(each, frames) for each in reach.to_pylist()}

    @cached_property
    def _fitting(self) -> NDArray[np.bool_]:
        return np.array([bool(self._rates.get(each)) for each in self._column("reach").to_pylist()], dtype=bool)

    def _used(self, *names: str) -> pa.Table:
        """Some columns of the usable clips."""
        return self.checked.clips.select(list(names)).filter(pa.array(self.usable))

    def _column(self, name: str) -> pa.ChunkedArray:
        return self.checked.clips[name]

    def _file(self, row: dict[str, Any]) -> str:
        member = None if row["member"] is None else Member(row["member"], row["offset"], row["bytes"])
        return str(VideoFile(self.checked.folder / row["file"], member))

    def _findings(self, kind: str, rows: NDArray[np.bool_]) -> list[Finding]:
        if not rows.any():
            return []
        first = self.checked.clips.slice(int(rows.argmax()), 1).to_pylist()[0]
        return [Finding(kind, int(rows.sum()), self._file(first))]

    def _copies(self) -> list[Finding]:
        """Videos that are there more than once."""
        clips = self._used("sha256", "file", "offset", "split")
        videos = clips.group_by(["sha256", "file", "offset"]).aggregate([("split", "min"), ("split", "max")])
        contents = videos.group_by("sha256").aggregate([([], "count_all"), ("split_min", "min"), ("split_max", "max")])
        findings = []
        for kind, chosen in (
            ("the same bytes as another video", pc.greater(contents["count_all"], 1)),
            (
                "in both splits: a video of the same bytes is in the other one",
                pc.not_equal(contents["split_min_min"], contents["split_max_max"]),
            ),
        ):
            rows = pc.is_in(self._column("sha256"), contents.filter(chosen)["sha256"].combine_chunks())
            findings += self._findings(kind, rows.to_numpy() & self.usable)
        return findings


def kind_of(problem: str, file: str) -> str:
    """A problem of a video without the video's name, its numbers, and what to do about it."""
    for what in ("video", "shard"):
        problem = problem.removeprefix(f"The {what} {file} ")
    cause = problem.removeprefix("cannot be read: ").partition(". ")[0].removesuffix(".")
    begun = re.fullmatch(r"(.*) \(after \d+ frames\)", cause)
    if begun:
        cause = f"cannot be decoded to its end: {begun[1]}"
    return re.sub(r"\b\d+(\.\d+)?(e[+-]?\d+)?\b", "N", cause)


def printable(text: str) -> str:
    """A text with escapes for what a terminal would obey, or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _write_csv(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            for row in rows:
                writer.writerow(
                    json.dumps(row[name], ensure_ascii=False) if isinstance(row[name], list | bool) else row[name]
                    for name in names
                )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _frame_rate(frames: int | None, duration: float | None) -> float | None:
    """The mean, to six digits; none of a single frame."""
    return float(f"{(frames - 1) / duration:.6g}") if frames and duration else None


def _counts(values: Counter[str]) -> str:
    shown = [f"{printable(value)} ({count:,})" for value, count in values.most_common(_SHOWN)]
    others = values.total() - sum(count for _, count in values.most_common(_SHOWN))
    return ", ".join([*shown, *([f"others ({others:,})"] if others else [])])


def _time(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _bytes(count: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
