"""Looks at the files of clips: decodes each once to its last frame, unless an earlier table says what it holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cogvid.data.files import VideoFile
from cogvid.data.reading import probe
from cogvid.data.table import CLIPS, FOUND, found_row, listed_clip, read_table, write_table
from cogvid.data.workers import in_order
from cogvid.errors import UserError
from cogvid.progress import stage_progress

# What is known so far, in parts: an interrupted look goes on behind the last of them.
FOUND_PARTS = ".found-*.arrow"
_PART = 1024
# What makes a clip the same, as long as its file is.
_PLACE = ("file", "offset", "bytes", "start", "end")


def look_at_all(folder: Path, clips: pa.Table, earlier: Sequence[pa.Table] = ()) -> pa.Table:
    """The clip table of listed clips, with progress.

    Args:
        folder: that relative files start from; files `FOUND_PARTS` are left in it, and taken from there.
        clips: as listed.
        earlier: clip tables of other folders: what they say of a file that is still the same is taken from there.
    """
    parts = []
    with stage_progress() as bar:
        task = bar.add_task("data: decode", total=len(clips))
        for start in range(0, len(clips), _PART):
            parts.append(folder / FOUND_PARTS.replace("*", str(start)))
            if not parts[-1].exists():
                part = clips.slice(start, _PART).to_pylist()
                look_at(parts[-1], folder, part, earlier, lambda: bar.advance(task))
            bar.update(task, completed=start + _PART)
    found = pa.concat_tables([FOUND.empty_table(), *map(read_table, parts)])
    return pa.table([*clips.columns, *found.columns], schema=CLIPS)


def look_at(
    path: Path, folder: Path, rows: Sequence[dict[str, Any]], earlier: Sequence[pa.Table], done: Callable[[], object]
) -> None:
    """Write a table of what the files of some clips hold.

    Args:
        path: of the table.
        folder: that relative files start from.
        rows: of the clips, as `listed_row` gives them.
        earlier: clip tables of other folders: what they say of a file that is still the same is taken from there.
        done: called after each clip.
    """
    known = _known(rows, earlier)
    clips = [listed_clip(row, folder) for row in rows]
    # Clips of one video lie side by side or not: it is decoded once.
    groups: dict[VideoFile, list[int]] = {}
    for number, clip in enumerate(clips):
        groups.setdefault(VideoFile.of(clip), []).append(number)
    files = list(groups)

    def look(number: int) -> list[dict[str, Any]]:
        file = files[number]
        own = [clips[clip] for clip in groups[file]]
        try:
            state = file.state()
            said = [known.get((_place(rows[clip]), state)) for clip in groups[file]]
            if all(said):
                return [row for row in said if row]
            # Files that the source has made are held to their SHA-256 with the stage; their times are by chance.
            made = file.path.is_relative_to(folder)
            facts = {"state": state.split()[0] if made else state, "sha256": file.sha256()}
            video = probe(file)
        except OSError as error:
            gone = UserError(f"The video {file} cannot be read: {error.strerror}.")
            return [found_row(clip, gone) for clip in own]
        except UserError as error:
            return [found_row(clip, error) | facts for clip in own]
        return [found_row(clip, video) | facts for clip in own]

    found: list[dict[str, Any]] = [{}] * len(rows)
    for file, said in zip(files, in_order(look, range(len(files))), strict=True):
        for number, row in zip(groups[file], said, strict=True):
            found[number] = row
            done()
    write_table(path, FOUND, found)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _PLACE)


def _known(rows: Sequence[dict[str, Any]], earlier: Sequence[pa.Table]) -> dict[Any, dict[str, Any]]:
    """What earlier tables say of these clips, by place and state of the file."""
    # Relative files are those of another folder.
    files = pa.array({row["file"] for row in rows if Path(row["file"]).is_absolute()}, pa.string())
    known = {}
    for table in earlier:
        for row in table.filter(pc.is_in(table["file"], files)).select([*_PLACE, *FOUND.names]).to_pylist():
            known[_place(row), row["state"]] = {name: row[name] for name in FOUND.names}
    return known
