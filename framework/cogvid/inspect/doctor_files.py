"""Files that an experiment names and that are not there, and the room that its stages will need on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from cogvid.config.schema import ComponentConfig, ExperimentConfig

# Options by these names are files or folders, in any plugin; others are where what they name looks like one.
_NAMES = ("path", "file", "folder", "model", "weights", "annotations", "extractor")


def missing_files(config: ExperimentConfig) -> list[tuple[str, str]]:
    """Files and folders that are named and not there: key and path."""
    return [(key, path) for key, path in _named(config, "") if not Path(path).expanduser().exists()]


def _named(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, ComponentConfig):
        yield from _paths(value.options, f"{key}.options")
    elif is_dataclass(value):
        for entry in fields(value):
            inner = getattr(value, entry.name)
            name = f"{key}.{entry.name}".lstrip(".")
            if entry.name == "weights" and isinstance(inner, str):
                yield name, inner
            else:
                yield from _named(inner, name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _named(inner, f"{key}.{name}")


def _paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _paths(inner, f"{key}.{name}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _paths(inner, key)
    elif isinstance(value, str) and value and _is_path(value, key.rpartition(".")[2]):
        yield key, value


def _is_path(value: str, name: str) -> bool:
    if any(sign in value for sign in ("{", "*", "://")):
        return False  # patterns and addresses, which only their component can read
    return "/" in value or bool(Path(value).suffix) or (name in _NAMES and name != "extractor")


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be made."""
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
