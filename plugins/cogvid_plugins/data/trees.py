"""What the sources of videos on disk share: walking a tree, choosing a split, saying what is wrong with either.

Whatever is kept of a video is a number, so that a tree of millions is listed in little memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from stat import S_ISLNK, S_ISREG
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cogvid import UserError
from cogvid.config.ranges import Allowed
from cogvid.data.files import VIDEO_SUFFIXES, VideoFile
from cogvid.interfaces.data_source import Progress, Split

SPLITS: tuple[Split, ...] = get_args(Split)
# A message names so many files; of the others it gives the number.
NAMED = 10

_NO_TEXT = re.compile("[\0\ud800-\udfff]")

log = logging.getLogger("cogvid")


def existing_folder(path: str, source: str) -> Path:
    """The folder that the option `path` of a source names.

    Raises:
        UserError: there is none.
    """
    home = Path(path).expanduser()
    if not home.is_dir():
        raise UserError(
            f"The video folder {home} does not exist. Set the option path of the data source {source!r}; a relative "
            "path starts at the current directory."
        )
    return home


def videos(home: Path) -> Iterator[str]:
    """The videos in a folder and its subfolders, by suffix: paths relative to it, in the same order every time.

    Raises:
        UserError: a folder cannot be read.
    """
    return (name for name in files(home) if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES)


def files(home: Path) -> Iterator[str]:
    """All files in a folder and its subfolders but those whose names begin with a dot; as `videos`."""

    def refuse(error: OSError) -> None:
        raise UserError(f"The folder {error.filename} cannot be read: {error.strerror}.") from error

    for folder, inner, names in os.walk(home, onerror=refuse):
        inner.sort()
        above = os.path.relpath(folder, home)
        for name in sorted(names):
            if name[0] != "." and is_text(name):
                yield name if above == "." else f"{above}/{name}"


def there_is(home: Path) -> str:
    """What a folder holds, in words, for messages about what it should hold."""
    inside = sorted(path for path in home.iterdir() if path.name[0] != ".")
    kinds = {"folders": [path.name for path in inside if path.is_dir()], "files": []}
    kinds["files"] = [path.name for path in inside if path.name not in kinds["folders"]]
    return " and ".join(f"{len(names)} {kind} ({listed(names)})" for kind, names in kinds.items() if names) or "nothing"


def listed(names: Iterable[str]) -> str:
    """The first of many names."""
    first = list(islice(names, NAMED + 1))
    return ", ".join(map(printable, first[:NAMED])) + (", ..." if len(first) > NAMED else "")


def warn_left_out(place: object, why: str, count: int, names: Iterable[str], what: str = "videos") -> None:
    """Say how many are left out, and the first of them by name; nothing where there are none."""
    if count:
        log.warning("%s: left out, because %s: %d of the %s (%s)", place, why, count, what, listed(names))


class LeftOut:
    """Counts what is left out for one reason, and keeps the first names."""

    def __init__(self) -> None:
        self.count, self.names = 0, list[str]()

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) <= NAMED:
            self.names.append(name)

    def warn(self, place: object, why: str, what: str = "videos") -> None:
        """Say it."""
        warn_left_out(place, why, self.count, self.names, what)


def is_text(value: str) -> bool:
    """Whether text can be written in UTF-8; names on a disk need not be, nor what JSON escapes."""
    return not _NO_TEXT.search(value)


def printable(name: str) -> str:
    """A name as a log can have it."""
    return name.encode("utf-8", "backslashreplace").decode()


def digest(text: str) -> int:
    """64 bits that stand for a text: of ten million texts, two have the same with a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class RealPaths:
    """The one path of each file that goes by several, and its state; one question to the disk for most files."""

    def __init__(self) -> None:
        self._folder = lru_cache(maxsize=1024)(os.path.realpath)

    def __call__(self, path: str) -> tuple[str, str]:
        """The path, and size and time of the file, empty where there is none."""
        folder, name = os.path.split(path)
        real = os.path.join(self._folder(folder), name)
        try:
            stat = os.lstat(real)
            if S_ISLNK(stat.st_mode):
                real = os.path.realpath(real)
                stat = os.stat(real)
        except (OSError, ValueError):  # not there, or a name that no file can have
            return real, ""
        return real, f"{stat.st_size} {stat.st_mtime_ns}" if S_ISREG(stat.st_mode) else ""


def file_state(path: Path) -> str:
    """Size and time of a file, for fingerprints; empty where there is none."""
    try:
        return VideoFile(path).state()
    except OSError:
        return ""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"The file {path} cannot be read: {error.strerror}.") from error


def fingerprint(parts: Iterable[object]) -> str:
    """Of everything that the clips of a source depend on, in an order that stays the same."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{part!r}\n".encode())
    return whole.hexdigest()


def share_key(seed: int, name: str) -> int:
    """Where a video stands among those that are chosen from for the test split: a new video moves few others."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


def share_end(keys: NDArray[np.uint64], share: float) -> int:
    """The keys below this one are in the test split: at least one of two or more, never all."""
    if not len(keys):
        return 0
    count = min(max(round(share * len(keys)), 1) if share else 0, len(keys) - 1)
    return int(np.partition(keys, count)[count])


def words(label: str) -> str:
    """The name of a class as words: `ApplyEyeMakeup` and `apply_eye_makeup` are both "apply eye makeup"."""
    return " ".join(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", label).lower().split())


def caption_pattern() -> Allowed:
    """Captions that say where the name of a class goes."""
    return Allowed("text with {label} in it", lambda value: "{label}" in value)


def captioned(pattern: str, label: str) -> str:
    """The caption of a clip of a class."""
    return pattern.replace("{label}", label).strip()


def report(progress: Progress, done: int, total: int) -> None:
    """Tell of progress now and then: a bar takes longer to draw than a clip to find."""
    if done % 100 == 0 or done == total:
        progress(done, total)


def log_classes(source: str, classes: int, train: int, test: int) -> None:
    """Say what was found in a tree of classes."""
    log.info("data: %s: %d classes, %d clips for training, %d for testing", source, classes, train, test)
