"""Data source `folder`: your own videos, with a file of captions beside them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import file_name, from_to_below, option
from cogvid.interfaces.data_source import Progress, Split
from cogvid_plugins.data.captions import Row, read_captions

VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
# A warning names so many clips; of the others it gives the number.
NAMED = 10

log = logging.getLogger("cogvid")


class Folder(DataSource):
    """A folder of videos, in subfolders too, and a captions file in it.

    The captions file is JSON Lines or, by the suffix `.csv`, CSV with a header. Columns: `file` (relative to
    the folder), `caption`, and where wanted `split` (`train` or `test`) and `id` (default: the file). A video
    may have several captions; all come into the same split, the one that any of them gives.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # the folder; relative to the current directory
        captions: str = option("captions.jsonl", file_name())  # relative to the folder
        test_share: float = option(0.1, from_to_below(0, 1))  # of the videos that no line gives a split

    def fingerprint(self) -> str:
        """The content of the captions file, and names, sizes and times of the files that it names."""
        rows, captions = self._read()
        files = sorted({_real(self._video(row)) for row in rows})
        states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if _is_file(path)]
        return hashlib.sha256(captions.read_bytes() + repr(states).encode()).hexdigest()

    def clips(self, folder: Path, seed: int, progress: Progress) -> list[Clip]:
        """The clips that have both a video and a caption; nothing is written."""
        rows, captions = self._read()
        there = set(_videos(self._home))
        missing = {row.file for row in rows if not _is_file(self._video(row))}
        _warn(f"{captions}: left out, because there is no such video", missing)
        captioned = {_real(self._video(row)) for row in rows}
        silent = {path.relative_to(self._home).as_posix() for path in there if _real(path) not in captioned}
        _warn(f"{self._home}: left out, because they have no caption", silent)
        rows = [row for row in rows if row.file not in missing]
        if not rows and not there:
            raise UserError(f"The folder {self._home} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}).")
        if not rows:
            raise UserError(
                f"{captions}: none of its videos exists, {min(missing)} for one. The column file has paths "
                f"relative to {self._home}."
            )
        splits = self._splits(rows, seed)
        clips = [Clip(row.id, self._video(row), row.caption, splits[_real(self._video(row))]) for row in rows]
        if not any(clip.split == "train" for clip in clips):
            raise UserError(f"{captions} leaves nothing to train on: every video in it is of the split test.")
        progress(len(clips), len(clips))
        return clips

    @property
    def _home(self) -> Path:
        return Path(self.config.path).expanduser()

    def _video(self, row: Row) -> Path:
        return self._home / row.file

    def _read(self) -> tuple[list[Row], Path]:
        """The rows of the captions file, and the file."""
        if not self._home.is_dir():
            raise UserError(
                f"The video folder {self._home} does not exist. Set the option path of the data source 'folder'; "
                "a relative path starts at the current directory."
            )
        captions = self._home / self.config.captions
        return read_captions(captions), captions

    def _splits(self, rows: list[Row], seed: int) -> dict[Path, Split]:
        """The split of each video, by its file: the one that a line gives, else one chosen by the seed."""
        given: dict[Path, Row] = {}
        names: dict[Path, str] = {}
        for row in rows:
            video = _real(self._video(row))
            names.setdefault(video, row.file)
            if row.split and given.setdefault(video, row).split != row.split:
                raise UserError(
                    f"{self._home / self.config.captions}:{row.line}: the video {row.file} is of the split "
                    f"{row.split}, on line {given[video].line} of {given[video].split}. Give all its lines the same "
                    "split."
                )
        tested = _choose_test(
            {name for video, name in names.items() if video not in given}, self.config.test_share, seed
        )
        return {
            video: cast(Split, given[video].split if video in given else "test" if name in tested else "train")
            for video, name in names.items()
        }


def _real(path: Path) -> Path:
    """The one path of a file that goes by several."""
    return Path(os.path.realpath(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for a file
        return False


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


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `folder`."""
    return {"folder": Folder}
