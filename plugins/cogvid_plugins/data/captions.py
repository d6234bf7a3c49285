"""The captions of a folder of videos: a file of JSON Lines or CSV, or a text file beside each video; each checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvid import UserError
from cogvid_plugins.data.lines import TextLines, csv_rows, json_rows
from cogvid_plugins.data.trees import SPLITS, is_text

EXAMPLE = '{"file": "cats/one.mp4", "caption": "a cat jumps off a table"}'
_MISSING = (
    f"Write one line for each video, such as {EXAMPLE}, or set the option captions of the data source 'folder' to a "
    ".csv file with columns file and caption, or to .txt where a text file lies beside each video."
)


@dataclass(frozen=True)
class Row:
    """One line of a captions file.

    Attributes:
        file: relative to the folder.
        caption: not empty.
        split: `train`, `test`, or empty where it is still to be chosen.
        id: empty where the line gives none.
        line: its number, from 1; in a CSV that of its first.
        offset: of its first byte in the file.
    """

    file: str
    caption: str
    split: str
    id: str
    line: int
    offset: int


class CaptionsFile:
    """The rows of a captions file: CSV by the suffix `.csv`, else JSON Lines. One of them is in memory at a time.

    Raises:
        UserError: the file cannot be read or is empty, or a line in it is not as it must be; while iterating, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._csv = path.suffix.lower() == ".csv"
        self._lines = TextLines(path, "captions file", _MISSING, returns=self._csv)
        self._header: list[str] = []

    def __enter__(self) -> CaptionsFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.__exit__(*error)

    def __iter__(self) -> Iterator[Row]:
        """All rows."""
        self._lines.seek()
        self._header, row = [], None
        for row in self._rows():
            yield row
        if row is None:
            raise UserError(f"The captions file {self.path} has no lines.")

    def at(self, offset: int) -> Row:
        """The row that begins at a byte; its `line` is not right. All rows have been read once before."""
        if offset != self._lines.offset:
            self._lines.seek(offset)
        return next(self._rows())

    def _rows(self) -> Iterator[Row]:
        rows = csv_rows(self._lines, self._header) if self._csv else json_rows(self._lines)
        return (_row(f"{self.path}:{line}", values, line, offset) for line, offset, values in rows)


def _row(place: str, values: dict[str, Any], line: int, offset: int) -> Row:
    """Check one line."""
    for column in ("file", "caption"):
        value = values.get(column)
        if not isinstance(value, str) or not value.strip():
            columns = ", ".join(map(str, values)) or "none"
            raise UserError(
                f"{place}: the {column} is empty or no text: {value!r}."
                if column in values
                else f"{place}: the column {column!r} is missing; the line has these: {columns}."
            )
    own = str(values.get("id") or "")
    for column, value in (("file", values["file"]), ("caption", values["caption"]), ("id", own)):
        if not is_text(value):
            raise UserError(f"{place}: the {column} has characters that are no text: {value!r}.")
    file, split = Path(values["file"].strip()).as_posix(), checked_split(place, values.get("split"))
    return Row(file, values["caption"].strip(), split, own, line, offset)


def checked_split(place: str, split: Any) -> str:
    """A split that a file gives, empty where it gives none.

    Raises:
        UserError: it is no split; the message begins with `place`.
    """
    if split and split not in SPLITS:
        raise UserError(f"{place}: the split is {' or '.join(SPLITS)}, not {split!r}.")
    return split or ""


def text_captions(place: object, content: bytes) -> list[str]:
    """The captions in a text file: each of its lines that is not empty.

    Raises:
        UserError: it is no text; the message begins with `place`.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: the captions are not in UTF-8. Save them in that encoding.") from error
    if not is_text(text):
        raise UserError(f"{place}: the captions have characters that are no text: {text[:80]!r}.")
    return [line.strip() for line in text.split("\n") if line.strip()]
