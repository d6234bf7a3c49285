"""Data source `folder`: your own videos, with a file of captions beside them."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import file_name, from_to_below, option
from cogvid.interfaces.data_source import Progress, Split

VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
SPLITS: tuple[Split, ...] = get_args(Split)
EXAMPLE = '{"file": "cats/one.mp4", "caption": "a cat jumps off a table"}'
# A warning names so many clips; of the others it gives the number.
NAMED = 10

log = logging.getLogger("cogvid")


@dataclass(frozen=True)
class Row:
    """One line of the captions file; an empty `split` is still to be chosen."""

    id: str
    file: str
    caption: str
    split: str


class Folder(DataSource):
    """A folder of videos, in subfolders too, and a captions file in it.

    The captions file is JSON Lines or, by the suffix `.csv`, CSV with a header. Columns: `file` (relative to
    the folder), `caption`, and where wanted `split` (`train` or `test`) and `id` (default: the file). A video
    may have several captions; where none has a `split`, all come into the same one.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # the folder; relative to the current directory
        captions: str = option("captions.jsonl", file_name())  # relative to the folder
        test_share: float = option(0.1, from_to_below(0, 1))  # of the videos that no line gives a split

    def fingerprint(self) -> str:
        """Names, sizes and times of the videos and the captions file."""
        home = Path(self.config.path).expanduser()
        files = [*sorted(_videos(home)), home / self.config.captions] if home.is_dir() else []
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
        return hashlib.sha256(repr(states).encode()).hexdigest()

    def clips(self, folder: Path, seed: int, progress: Progress) -> list[Clip]:
        """The clips that have both a video and a caption; nothing is written."""
        home = Path(self.config.path).expanduser()
        if not home.is_dir():
            raise UserError(
                f"The video folder {home} does not exist. Set the option path of the data source 'folder'; "
                "a relative path starts at the current directory."
            )
        videos = {path.relative_to(home).as_posix() for path in _videos(home)}
        if not videos:
            raise UserError(f"The folder {home} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        captions = home / self.config.captions
        rows = _read(captions)
        missing = {row.file for row in rows if not (home / row.file).is_file()}
        _warn(f"{captions}: left out, because there is no such video", missing)
        _warn(f"{home}: left out, because they have no caption", videos - {row.file for row in rows})
        rows = [row for row in rows if row.file not in missing]
        if not rows:
            raise UserError(
                f"{captions}: none of its videos exists, {min(missing)} for one. The column file has paths "
                f"relative to {home}."
            )
        tested = _choose_test({row.file for row in rows if not row.split}, self.config.test_share, seed)
        clips = [
            Clip(
                row.id,
                home / row.file,
                row.caption,
                cast(Split, row.split or ("test" if row.file in tested else "train")),
            )
            for row in rows
        ]
        if not any(clip.split == "train" for clip in clips):
            raise UserError(f"{captions} leaves nothing to train on: every video in it is of the split test.")
        progress(len(clips), len(clips))
        return clips


def _videos(home: Path) -> Iterator[Path]:
    return (path for path in home.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != ".")


def _choose_test(files: Collection[str], share: float, seed: int) -> set[str]:
    """The videos for the test split: at least one of two or more, never all; a new video moves few others."""
    order = sorted(files, key=lambda file: hashlib.sha256(f"{seed}:{file}".encode()).digest())
    count = max(round(share * len(order)), 1) if share else 0
    return set(order[: min(count, len(order) - 1)])


def _warn(what: str, files: Collection[str]) -> None:
    if files:
        names = ", ".join(sorted(files)[:NAMED]) + (", ..." if len(files) > NAMED else "")
        log.warning("%s: %d of the videos (%s)", what, len(files), names)


def _read(path: Path) -> list[Row]:
    """The rows of a captions file.

    Raises:
        UserError: the file is missing or empty, or a line in it is not as it must be.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"The captions file {path} does not exist. Write one line for each video, such as {EXAMPLE}, or "
            "set the option captions of the data source 'folder' to a .csv file with columns file and "
            "caption."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"The captions file {path} is not in UTF-8. Save it in that encoding.") from error
    lines = _csv_lines(text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    rows: dict[str, Row] = {}
    captions: Counter[str] = Counter()
    for number, values in lines:
        row = _row(f"{path}:{number}", values)
        captions[row.file] += 1
        if not row.id:
            row = replace(row, id=row.file if captions[row.file] == 1 else f"{row.file}#{captions[row.file]}")
        if row.id in rows:
            raise UserError(f"{path}:{number}: the id {row.id!r} stands on an earlier line, too. Ids are unique.")
        rows[row.id] = row
    if not rows:
        raise UserError(f"The captions file {path} has no lines.")
    return list(rows.values())


def _json_lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: no valid JSON ({error.msg}): {line[:80]}") from error
            if not isinstance(values, dict):
                raise UserError(f"{path}:{number}: each line is a JSON object, not {line[:80]}")
            yield number, values


def _csv_lines(text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for values in reader:
        yield reader.line_num, values


def _row(place: str, values: dict[str, Any]) -> Row:
    """Check one line; `place` names it in messages."""
    for column in ("file", "caption"):
        if column not in values:
            columns = ", ".join(map(str, values)) or "none"
            raise UserError(f"{place}: the column {column!r} is missing; the line has these: {columns}.")
        if not isinstance(values[column], str) or not values[column].strip():
            raise UserError(f"{place}: the {column} is empty or no text: {values[column]!r}.")
    split = values.get("split") or ""
    if split and split not in SPLITS:
        raise UserError(f"{place}: the split is {' or '.join(SPLITS)}, not {split!r}.")
    file = Path(values["file"].strip()).as_posix()
    return Row(str(values.get("id") or ""), file, values["caption"].strip(), split)


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `folder`."""
    return {"folder": Folder}
