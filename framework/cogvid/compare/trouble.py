"""Why a run has no scores: what its log says ended it, or that it is still at work."""

from __future__ import annotations

import fcntl
import re
import time
from contextlib import suppress
from pathlib import Path

LOG = "log.txt"
# As `cogvid.pipeline.logs.log_to_file` writes it.
_ENDED = re.compile(r"^\S+ \S+ ERROR ended by (.*)$")


def what_ended(folder: Path) -> str:
    """The cause, in words, for a run that has not come to its end."""
    if at_work(folder / ".lock"):
        return "still at work"
    said = last_words(folder / LOG)
    return f"ended by {said}" if said else "ended without a word: killed, or the machine went down"


def last_words(log: Path, since: int = 0) -> str:
    """What a log says in the end of what ended the run, without the full stop; empty where it does not.

    Args:
        log: the file, which need not be there.
        since: as many bytes at its beginning are of earlier attempts.
    """
    text = log.read_bytes()[since:].decode("utf-8", errors="replace") if log.is_file() else ""
    lines = [line for line in text.split("\n") if line.strip()]
    # What was said before a later attempt is no cause any more.
    found = _ENDED.match(lines[-1]) if lines else None
    return found[1].rstrip(".") if found else ""


def add_last_words(log: Path, said: str) -> None:
    """Say in a log what ended the run, for a process that did not come to it.

    Args:
        log: the file, made where there is none.
        said: in one line.
    """
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ERROR ended by {said}\n")


def at_work(lock: Path) -> bool:
    """Whether somebody holds a lock, on whatever machine, where the file system has locks across machines."""
    with suppress(FileNotFoundError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
