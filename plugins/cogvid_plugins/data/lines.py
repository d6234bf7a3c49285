"""Text files line by line: JSON Lines, CSV, lists; whatever is wrong with one is said with its line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cogvid import UserError

_BOM = b"\xef\xbb\xbf"


class TextLines(Iterator[str]):
    """The lines of a file in UTF-8; one of them is in memory at a time.

    Args:
        path: of the file.
        what: it is called in messages.
        missing: what to do where it does not exist.
        returns: whether a carriage return ends a line, too.

    Attributes:
        offset: of the byte at which the next line begins.

    Raises:
        UserError: the file does not exist, cannot be read or is in another encoding; the last two while iterating, too.
    """

    def __init__(self, path: Path, what: str, missing: str = "", returns: bool = False) -> None:
        self.path, self._what, self._newline = path, what, "" if returns else "\n"
        self._text: io.TextIOWrapper | None = None
        try:
            self._file = path.open("rb")
            self._start = len(_BOM) if self._file.read(len(_BOM)) == _BOM else 0
        except FileNotFoundError as error:
            raise UserError(f"The {what} {path} does not exist. {missing}".strip()) from error
        except OSError as error:
            raise self._unreadable(error) from error
        self.seek()

    def __enter__(self) -> TextLines:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def seek(self, offset: int | None = None) -> None:
        """Go on with the line that begins at a byte; without one, with the first line."""
        self.offset = self._start if offset is None else offset
        if self._text is not None:
            self._text.detach()  # else its end would close the file
        self._file.seek(self.offset)
        self._text = io.TextIOWrapper(self._file, encoding="utf-8", newline=self._newline)

    def __next__(self) -> str:
        assert self._text is not None
        try:
            line = next(self._text)
        except OSError as error:
            raise self._unreadable(error) from error
        except UnicodeDecodeError as error:
            raise UserError(f"The {self._what} {self.path} is not in UTF-8. Save it in that encoding.") from error
        self.offset += len(line.encode())
        return line

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"The {self._what} {self.path} cannot be read: {error.strerror}.")


def json_rows(lines: TextLines) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The number, the first byte and the values of each line of JSON from here on.

    Raises:
        UserError: a line is no JSON object; the message names it.
    """
    number, offset = 1, lines.offset
    # Other characters that Python counts as line ends, such as U+2028, are text.
    for line in lines:
        if line.strip():
            yield number, offset, json_object(f"{lines.path}:{number}", line)
        number, offset = number + 1, lines.offset


def json_object(place: str, text: str | bytes) -> dict[str, Any]:
    """The object that some JSON is.

    Raises:
        UserError: it is none; the message begins with `place`.
    """
    start = text[:80] if isinstance(text, str) else text[:80].decode(errors="replace")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        cause = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(f"{place}: no valid JSON ({cause}): {start}") from error
    if not isinstance(values, dict):
        raise UserError(f"{place}: expected is a JSON object, not {start}")
    return values


def csv_rows(lines: TextLines, header: list[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The number of the first line, the first byte and the values of each row of CSV from here on.

    Args:
        lines: of the file, with `returns`.
        header: its columns; where it is empty, the next row is the header and is written there.

    Raises:
        UserError: the file is no valid CSV; the message names the line.
    """
    reader = csv.reader(lines, strict=True)
    while True:
        number, offset = reader.line_num + 1, lines.offset
        place = f"{lines.path}:{number}"
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{place}: no valid CSV ({error}). A text with a comma, a quote or a line break stands in double "
                "quotes, with its own quotes doubled."
            ) from error
        if values is None:
            return
        if values and not header:
            header += values
            if len(set(header)) < len(header):
                raise UserError(f"{place}: a column stands twice in the header: {', '.join(header)}.")
        elif values:
            if len(values) > len(header):
                raise UserError(
                    f"{place}: the line has {len(values)} columns, the header {len(header)} ({', '.join(header)}). A "
                    "text with a comma stands in double quotes."
                )
            yield number, offset, dict(zip(header, values, strict=False))
