"""The captions file of a folder of videos: JSON Lines or CSV, each line checked."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from cogvid import UserError
from cogvid.interfaces.data_source import Split

SPLITS: tuple[Split, ...] = get_args(Split)
EXAMPLE = '{"file": "cats/one.mp4", "caption": "a cat jumps off a table"}'


@dataclass(frozen=True)
class Row:
    """One line of the captions file; an empty `split` is still to be chosen."""

    id: str
    file: str
    caption: str
    split: str
    line: int


def read_captions(path: Path) -> list[Row]:
    """The rows of a captions file: CSV by the suffix `.csv`, else JSON Lines.

    Raises:
        UserError: the file cannot be read or is empty, or a line in it is not as it must be.
    """
    text = _text(path)
    lines = _csv_lines(path, text) if path.suffix.lower() == ".csv" else _json_lines(path, text)
    rows: dict[str, Row] = {}
    captions: Counter[str] = Counter()
    for number, values in lines:
        row = _row(path, number, values)
        captions[row.file] += 1
        if not row.id:
            row = replace(row, id=row.file if captions[row.file] == 1 else f"{row.file}#{captions[row.file]}")
        if row.id in rows:
            raise UserError(f"{path}:{number}: the id {row.id!r} stands on an earlier line, too. Ids are unique.")
        rows[row.id] = row
    if not rows:
        raise UserError(f"The captions file {path} has no lines.")
    return list(rows.values())


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"The captions file {path} does not exist. Write one line for each video, such as {EXAMPLE}, or "
            "set the option captions of the data source 'folder' to a .csv file with columns file and "
            "caption."
        ) from error
    except OSError as error:
        raise UserError(f"The captions file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"The captions file {path} is not in UTF-8. Save it in that encoding.") from error


def _json_lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    # Other characters that Python counts as line ends, such as U+2028, are text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                cause = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                raise UserError(f"{path}:{number}: no valid JSON ({cause}): {line[:80]}") from error
            if not isinstance(values, dict):
                raise UserError(f"{path}:{number}: each line is a JSON object, not {line[:80]}")
            yield number, values


def _csv_lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    number = 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}:{number}: no valid CSV ({error}). A caption with a comma, a quote or a line break stands in "
                "double quotes, with its own quotes doubled."
            ) from error
        if values is None:
            return
        if values and not header:
            header = values
            if len(set(header)) < len(header):
                raise UserError(f"{path}:{number}: a column stands twice in the header: {', '.join(header)}.")
        elif values:
            if len(values) > len(header):
                raise UserError(
                    f"{path}:{number}: the line has {len(values)} columns, the header {len(header)} "
                    f"({', '.join(header)}). A caption with a comma stands in double quotes."
                )
            yield number, dict(zip(header, values, strict=False))
        number = reader.line_num + 1


def _row(path: Path, number: int, values: dict[str, Any]) -> Row:
    """Check one line."""
    place = f"{path}:{number}"
    for column in ("file", "caption"):
        if column not in values:
            columns = ", ".join(map(str, values)) or "none"
            raise UserError(f"{place}: the column {column!r} is missing; the line has these: {columns}.")
        if not isinstance(values[column], str) or not values[column].strip():
            raise UserError(f"{place}: the {column} is empty or no text: {values[column]!r}.")
    for column in ("file", "caption", "id"):
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in str(values.get(column))):
            raise UserError(f"{place}: the {column} has characters that are no text: {values[column]!r}.")
    split = values.get("split") or ""
    if split and split not in SPLITS:
        raise UserError(f"{place}: the split is {' or '.join(SPLITS)}, not {split!r}.")
    file = Path(values["file"].strip()).as_posix()
    return Row(str(values.get("id") or ""), file, values["caption"].strip(), split, number)
