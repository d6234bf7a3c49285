"""Experiments and fragments that can be named in the current folder, with what their files say of themselves."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

from cogvid.config.compose import outline, takes_fragment
from cogvid.config.sources import display, experiment_files, fragment_files, shipped
from cogvid.errors import UserError

# No part of a number, and none of an ellipsis.
_FULL_STOP = re.compile(r"(?<!\.)\.(?:\s|$)")


@dataclass(frozen=True)
class Experiment:
    """An experiment's file.

    Attributes:
        name: by which commands find it.
        path: of the file that the name finds.
        origin: cogvid, or the path, for people.
        description: its own, or the first sentence of its comment; empty where there is neither.
        variants: their names, inherited ones included.
        broken: why it, or one of its bases, cannot be read; empty where all can.
    """

    name: str
    path: Path
    origin: str
    description: str = ""
    variants: tuple[str, ...] = ()
    broken: str = ""


@dataclass(frozen=True)
class Fragment:
    """A fragment's file.

    Attributes:
        name: by which `base` finds it, such as trainer/gpu.
        path: of the file that the name finds.
        origin: cogvid, or the path, for people.
        description: the first sentence of its comment; empty where there is none.
        override: what takes it on the command line, such as trainer=gpu; empty where nothing does.
    """

    name: str
    path: Path
    origin: str
    description: str
    override: str


def experiments() -> list[Experiment]:
    """All that commands find by name here, sorted by it."""
    return [_experiment(name, path) for name, path in experiment_files().items()]


def _experiment(name: str, path: Path) -> Experiment:
    try:
        description, variants = outline(path)
    except UserError as error:
        return Experiment(name, path, _origin(path), broken=str(error))
    return Experiment(name, path, _origin(path), description or first_sentence(path), tuple(variants))


def fragments() -> list[Fragment]:
    """All that an experiment of this folder finds by name, sorted by it."""
    found = []
    for name, path in fragment_files().items():
        key, _, value = name.partition("/")
        override = f"{key}={value}" if value and takes_fragment(key) else ""
        found.append(Fragment(name, path, _origin(path), first_sentence(path), override))
    return found


def _origin(path: Path) -> str:
    built_in = any(path.resolve().is_relative_to(shipped() / name) for name in ("experiments", "configs"))
    return "cogvid" if built_in else display(path)


def first_sentence(path: Path) -> str:
    """With which the comment at the beginning of a file begins, without the full stop; empty where there is none."""
    lines: list[str] = []
    with suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
    said = takewhile(lambda line: line.startswith("#"), dropwhile(lambda line: not line.strip(), lines))
    paragraph = takewhile(bool, (line.lstrip("#").strip() for line in said))
    return _FULL_STOP.split(" ".join(paragraph))[0]
