"""The SHA-256 of files that a stage leaves behind or reads, and whether they still have it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cogvid.config.schema import ProtocolConfig
from cogvid.errors import UserError

# They tell of the work; nothing is made from them.
_TELLING = ("stage.json", "history.jsonl", "events")


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal; read once a process as long as the file's size and time stay the same."""
    state = path.stat()
    return _digest(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ino)


@cache
def _digest(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def outputs(folder: Path, without: Collection[Path] = ()) -> dict[str, str]:
    """SHA-256 of everything that a stage's work left in its folder, by path in it.

    Args:
        folder: of the stage.
        without: files and folders directly in it that do not count.
    """
    passed = {*_TELLING, *(path.name for path in without)}
    paths = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    kept = sorted(path for path in paths if path.parts[0] not in passed and not path.name.startswith("."))
    return {path.as_posix(): file_digest(folder / path) for path in kept}


def first_damaged(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first of a stage's outputs that is not what its work left, and in what way; None if all of them are."""
    for name, digest in digests.items():
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if file_digest(folder / name) != digest:
            return f"{folder / name} is not the file that the stage left: its SHA-256 is another"
    return None


def check_published(path: Path, extractor: str, protocol: ProtocolConfig) -> None:
    """Hold an extractor's file to the SHA-256 that a protocol knows of it, if it knows one.

    Raises:
        UserError: it is another file.
    """
    wanted = protocol.sha256.get(extractor)
    if wanted and (found := file_digest(path)) != wanted:
        raise UserError(
            f"{path} is not the published file of the extractor {extractor}: its SHA-256 is {found}, and the protocol "
            f"{protocol.name} is of {wanted}. Take that file, or change evaluation.protocol.sha256 in a protocol of "
            "your own."
        )


def named_files(options: Any) -> dict[str, str]:
    """SHA-256 of the files that the values of a component's options name, by value."""
    if isinstance(options, str):
        return {options: file_digest(Path(options))} if options and Path(options).is_file() else {}
    values = options.values() if isinstance(options, Mapping) else options if isinstance(options, Sequence) else ()
    return {name: digest for value in values for name, digest in named_files(value).items()}
