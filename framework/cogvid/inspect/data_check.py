"""All that is wrong with a data set, found before anything is made of it: every clip decoded to its last frame."""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cogvid.config.compose import Resolved
from cogvid.data.table import CLIPS, LISTED, listed_row, read_table, table_rows, write_table
from cogvid.errors import UserError
from cogvid.inspect.videos import Videos
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.pipeline.check import check_test_clips
from cogvid.pipeline.clips import TABLE, read_clips
from cogvid.pipeline.data_stage import check_listed, source_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.look import look_at_all
from cogvid.pipeline.stage import StageResult
from cogvid.progress import stage_progress


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        name: of what was checked, for titles.
        clips: a clip table; a video that cannot even be listed has a row with its name and its problem.
        folder: that relative files in it start from.
        lab: of the experiment; None for videos that are no experiment's.
        passed_over: files that are no videos by their names, by suffix.
        said: what the data source warned of.
        stops: why a run would end before it trains.
    """

    name: str
    clips: pa.Table
    folder: Path
    lab: Lab | None = None
    passed_over: Counter[str] | None = None
    said: Sequence[str] = ()
    stops: Sequence[str] = ()


def check_path(path: Path) -> Checked:
    """Look at every video of a folder, a tar shard, or at a single one; captions are not asked for.

    Raises:
        UserError: there is no such file or folder.
    """
    if not os.path.lexists(path):
        raise UserError(f"{path} does not exist.")
    videos = Videos(path)
    with _workplace() as folder:
        with stage_progress() as bar:
            task = bar.add_task("data: clips", total=None)
            listed, nameless = _list(videos, folder, lambda: bar.advance(task))
        clips = look_at_all(folder, listed)
    lost = [*nameless, *((str(shard), problem) for shard, problem in videos.damaged)]
    return Checked(str(path), _with(clips, lost), path, passed_over=videos.others)


def check_experiment(resolved: Resolved) -> Checked:
    """Look at every clip of an experiment, and at what training would make of it.

    A source that makes its clips makes them in a temporary folder.

    Raises:
        UserError: the experiment cannot be built, or its source finds nothing.
    """
    lab, said = Lab(resolved.config, resolved.provenance), _Warnings()
    if not isinstance(lab.data, DataSource):
        raise UserError(f"data: {lab.config.data.name} gives tokens, and has no videos to check.")
    with _workplace() as folder:
        with said:
            listed, nameless = _list(source_clips(lab, folder), folder)
        clips = look_at_all(folder, listed)
        write_table(folder / TABLE, CLIPS, table_rows(clips))
        stops = [*_stops(lab, listed, folder)]
    return Checked(f"experiment {lab.config.name}", _with(clips, nameless), folder, lab, None, said.messages, stops)


@contextmanager
def _workplace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cogvid-check-") as folder:
        yield Path(folder)


def _list(
    clips: Iterable[Clip], folder: Path, listed: Callable[[], object] = lambda: None
) -> tuple[pa.Table, list[tuple[str, str]]]:
    """The clips as listed, and name and problem of those that the table cannot hold."""
    nameless = []

    def rows() -> Iterator[dict[str, object]]:
        for clip in clips:
            listed()
            try:
                yield listed_row(clip, folder)
            except UserError as error:
                nameless.append((str(clip.path).encode(errors="backslashreplace").decode(), str(error)))

    write_table(folder / ".listed.arrow", LISTED, rows())
    return read_table(folder / ".listed.arrow"), nameless


def _with(clips: pa.Table, lost: Iterable[tuple[str, str]]) -> pa.Table:
    rows = [{"id": file, "file": file, "problem": problem} for file, problem in lost]
    return pa.concat_tables([clips, pa.Table.from_pylist(rows, schema=CLIPS)])


def _stops(lab: Lab, listed: pa.Table, folder: Path) -> Iterator[str]:
    checks: list[Callable[[], None]] = [lambda: check_listed(listed)]
    if len(read_clips(folder, "train")):
        checks.append(lambda: check_test_clips(lab, StageResult(folder, "", {})))
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)


class _Warnings(logging.Handler):
    """Keeps what is warned of while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def __enter__(self) -> None:
        log.addHandler(self)

    def __exit__(self, *error: object) -> None:
        log.removeHandler(self)
