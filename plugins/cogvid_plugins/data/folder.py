"""Data source `folder`: your own videos, with their captions in a file or beside them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import file_name, from_to_below, option
from cogvid.data.files import VIDEO_SUFFIXES
from cogvid.interfaces.data_source import Progress
from cogvid_plugins.data.captions import EXAMPLE, CaptionsFile, text_captions
from cogvid_plugins.data.trees import (
    SPLITS,
    LeftOut,
    RealPaths,
    digest,
    existing_folder,
    file_digest,
    file_state,
    fingerprint,
    listed,
    report,
    share_end,
    share_key,
    there_is,
    videos,
    warn_left_out,
)

# Where captions are looked for, unless an option says it.
FILES = ("captions.jsonl", "captions.csv")
BESIDE = ".txt"
# What is kept of a line of the captions file while all are read.
_ROW = np.dtype(
    [
        ("video", "u8"),  # stands for the file
        ("id", "u8"),  # stands for the id that the line gives; 0 where it gives none
        ("key", "u8"),  # chooses the test split
        ("split", "u1"),  # 0 for none, 1 for train, 2 for test
        ("there", "?"),  # whether the video is
        ("line", "u4"),
        ("offset", "u8"),
    ]
)


class Folder(DataSource):
    """A folder of videos, in subfolders too, and their captions.

    Captions stand in a file in the folder, JSON Lines or, by the suffix `.csv`, CSV with a header. Columns: `file`
    (relative to the folder), `caption`, and where wanted `split` (`train` or `test`) and `id` (default: the file). A
    video may have several lines: they are one clip with several captions, with the split and the id that any of them
    gives. Or they stand in a text file beside each video, `cats/one.txt` for `cats/one.mp4`, one on each line.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # the folder; relative to the current directory
        # A file in the folder, or .txt for a text file beside each video; null: the first that is there of
        # captions.jsonl, captions.csv and .txt.
        captions: str | None = option(None, file_name())
        test_share: float = option(0.1, from_to_below(0, 1))  # of the videos that no line gives a split

    def fingerprint(self) -> str:
        """The captions, and names, sizes and times of the videos that have some."""
        home, real = existing_folder(self.config.path, "folder"), RealPaths()
        captions = self._captions(home)
        if captions is None:
            beside = ((name, home / name, _text(home, name)) for name in videos(home))
            return fingerprint((name, file_state(video), file_state(text)) for name, video, text in beside)
        with CaptionsFile(captions) as rows:
            states = (real(os.path.join(home, row.file)) for row in rows)
            return fingerprint([file_digest(captions), fingerprint(states)])

    def clips(self, folder: Path, seed: int, progress: Progress) -> Iterator[Clip]:
        """The clips that have both a video and a caption; nothing is written."""
        home = existing_folder(self.config.path, "folder")
        captions = self._captions(home)
        if captions is None:
            yield from _from_beside(home, self.config.test_share, seed, progress)
        else:
            with CaptionsFile(captions) as rows:
                yield from _from_file(home, rows, self.config.test_share, seed, progress)

    def _captions(self, home: Path) -> Path | None:
        """The captions file; None for a text file beside each video."""
        if self.config.captions is not None:
            return None if self.config.captions == BESIDE else home / self.config.captions
        return next((home / name for name in FILES if (home / name).is_file()), None)


def _from_file(home: Path, captions: CaptionsFile, share: float, seed: int, progress: Progress) -> Iterator[Clip]:
    rows = np.fromiter(_read(home, captions, seed), dtype=_ROW)
    gone = rows[~rows["there"]]
    _, first = np.unique(gone["video"], return_index=True)
    names = (captions.at(int(offset)).file for offset in gone["offset"][np.sort(first)])
    warn_left_out(captions.path, "there is no such video", len(first), names)
    _warn_of_silent(home, rows)
    if len(gone) == len(rows):
        raise UserError(
            f"{captions.path}: none of its videos exists, {captions.at(int(rows['offset'][0])).file} for one. The "
            f"column file has paths relative to {home}."
        )
    rows = rows[rows["there"]]
    # The lines of a video one after the other, videos in the order of their first lines.
    _, first, which = np.unique(rows["video"], return_index=True, return_inverse=True)
    rows = rows[np.argsort(first[which], kind="stable")]
    starts = np.flatnonzero(np.append(True, rows["video"][1:] != rows["video"][:-1]))
    _check_ids(captions, rows, _given(captions, rows, starts, "id"))
    splits, keys = _given(captions, rows, starts, "split"), rows["key"][starts]
    splits[splits == 0] = np.where(keys[splits == 0] < share_end(keys[splits == 0], share), 2, 1)
    if not (splits == 1).any():
        raise UserError(f"{captions.path} leaves nothing to train on: every video in it is of the split test.")
    for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        lines = [captions.at(int(offset)) for offset in rows["offset"][start:stop]]
        name = next((line.id for line in lines if line.id), lines[0].file)
        caption, *more = (line.caption for line in lines)
        yield Clip(name, home / lines[0].file, caption, SPLITS[splits[number] - 1], tuple(more))
        report(progress, number + 1, len(starts))


def _read(home: Path, captions: CaptionsFile, seed: int) -> Iterator[tuple[Any, ...]]:
    """What is kept of each line."""
    real, root = RealPaths(), str(home)
    for row in captions:
        path, state = real(os.path.join(root, row.file))
        split = ("", *SPLITS).index(row.split)
        key = share_key(seed, row.file)
        yield digest(path), digest(row.id) if row.id else 0, key, split, bool(state), row.line, row.offset


def _warn_of_silent(home: Path, rows: NDArray[Any]) -> None:
    real = RealPaths()
    there = np.fromiter((digest(real(os.path.join(home, name))[0]) for name in videos(home)), dtype=np.uint64)
    if not len(there) and not rows["there"].any():
        raise _no_videos(home)
    silent = ~np.isin(there, rows["video"])
    names = (name for name, one in zip(videos(home), silent, strict=False) if one)
    warn_left_out(home, "they have no caption", int(silent.sum()), names)


def _given(captions: CaptionsFile, rows: NDArray[Any], starts: NDArray[np.int64], column: str) -> NDArray[Any]:
    """What the lines of each video say in a column: 0 where none says anything."""
    values = rows[column]
    given = np.maximum.reduceat(values, starts)
    wrong = np.flatnonzero((values > 0) & (values != np.repeat(given, np.diff([*starts, len(rows)]))))
    if len(wrong):
        own = rows[rows["video"] == rows["video"][wrong[0]]]
        own = own[own[column] > 0]
        other = own[own[column] != own[column][0]][0]
        one, two = (captions.at(int(row["offset"])) for row in (own[0], other))
        raise UserError(
            f"{captions.path}:{other['line']}: the video {two.file} is of the {column} {getattr(two, column)}, on line "
            f"{own[0]['line']} of {getattr(one, column)}. All lines of a video are one clip; give them one {column}."
        )
    return given


def _check_ids(captions: CaptionsFile, rows: NDArray[Any], ids: NDArray[Any]) -> None:
    ids, counts = np.unique(ids[ids > 0], return_counts=True)
    if (counts > 1).any():
        own = rows[rows["id"] == ids[counts > 1][0]]
        second = own[own["video"] != own["video"][0]][0]
        name = captions.at(int(second["offset"])).id
        raise UserError(
            f"{captions.path}:{second['line']}: the id {name!r} stands on an earlier line, too, for another video. Ids "
            "are unique."
        )


def _from_beside(home: Path, share: float, seed: int, progress: Progress) -> Iterator[Clip]:
    # Several names of one file choose the same split.
    real, root = RealPaths(), os.path.realpath(home) + os.sep
    silent = LeftOut()

    def key(name: str) -> int:
        return share_key(seed, real(os.path.join(home, name))[0].removeprefix(root))

    def find() -> Iterator[int]:
        for name, captions in _beside_all(home):
            if captions:
                yield key(name)
            else:
                silent.add(name)

    keys = np.fromiter(find(), np.uint64)
    if silent.count and not len(keys):
        raise UserError(
            f"The folder {home} holds {silent.count} videos ({listed(silent.names)}) and no captions of them. Expected "
            f"is {' or '.join(FILES)} in it, with lines such as {EXAMPLE}, or a text file beside each video, such as "
            f"{_text(home, silent.names[0]).name}. What is there: {there_is(home)}."
        )
    if not len(keys):
        raise _no_videos(home)
    silent.warn(home, f"no {BESIDE} file with captions lies beside them")
    end, number = share_end(keys, share), 0
    for name, captions in _beside_all(home):
        if captions:
            yield Clip(name, home / name, captions[0], "test" if key(name) < end else "train", tuple(captions[1:]))
            number += 1
            report(progress, number, len(keys))


def _beside_all(home: Path) -> Iterator[tuple[str, list[str]]]:
    """Each video with the captions in the text file beside it."""
    for name in videos(home):
        path = _text(home, name)
        try:
            yield name, text_captions(path, path.read_bytes())
        except FileNotFoundError:
            yield name, []
        except OSError as error:
            raise UserError(f"The captions file {path} cannot be read: {error.strerror}.") from error


def _text(home: Path, name: str) -> Path:
    return (home / name).with_suffix(BESIDE)


def _no_videos(home: Path) -> UserError:
    return UserError(
        f"The folder {home} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))}). What is there: {there_is(home)}."
    )


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `folder`."""
    return {"folder": Folder}
