"""Why a run has no scores: what its log says ended it, or that it is still at work."""

from __future__ import annotations

import fcntl
import re
from contextlib import suppress
from pathlib import Path

# As `cogvid.pipeline.logs.log_to_file` writes it.
_ENDED = re.compile(r"^\S+ \S+ ERROR ended by (.*)$")


def what_ended(folder: Path) -> str:
    """The cause, in words, for a run that has not come to its end."""
    if _at_work(folder / ".lock"):
        return "still at work"
    log = folder / "log.txt"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    said = [line for line in lines if line.strip()]
    # What was said before a later attempt is no cause any more.
    found = _ENDED.match(said[-1]) if said else None
    return f"ended by {found[1].rstrip('.')}" if found else "ended without a word: killed, or the machine went down"


def _at_work(lock: Path) -> bool:
    with suppress(FileNotFoundError), lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
