"""Where warnings and notes of the stages go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.logging import RichHandler

from cogvid.pipeline.lab import log
from cogvid.training import job


def log_to_terminal() -> None:
    """Show warnings and notes of the stages where the progress bars are."""
    if not any(isinstance(handler, RichHandler) for handler in log.handlers):
        log.addHandler(RichHandler(show_path=False, show_time=False))
        log.propagate = False


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Add warnings and notes to a file, too, and what ends the work before its time; those of a job's leader."""
    if not job.leads():
        yield
        return
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        # The terminal shows it anyway; this is for who looks at the run afterwards.
        why = (type(error).__name__, " ".join(str(error).split()) or "no message")
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "ended by %s: %s", why, None))
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
