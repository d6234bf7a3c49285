"""Folders that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cogvid.errors import UserError
from cogvid.pipeline.stage import LOCK, delete, owned


@contextmanager
def new_folder(out: Path, needed: int = 0) -> Iterator[Path]:
    """A folder that is made when all that belongs in it is there.

    Args:
        out: the folder.
        needed: bytes that it will have, about.

    Yields:
        A folder beside it to work in, which becomes `out`, or goes where the work fails.

    Raises:
        UserError: `out` is there already or cannot be made, or there is no room for it; nothing was touched.
    """
    out = out.absolute()
    if out.exists():
        raise UserError(f"{out} exists already; name a folder that does not. Nothing in it was touched.")
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if needed > free:
            raise UserError(f"{out} will have {needed / 1e9:.1f} GB, and there are {free / 1e9:.1f} GB free there.")
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made: {error.strerror}. Name another folder.") from error
    with owned(partial, wait=True):
        if out.exists():
            raise UserError(f"{out} was made by another process meanwhile. Nothing in it was touched.")
        try:
            # Another process that was killed may have left something.
            for path in partial.iterdir():
                if path.name != LOCK:
                    delete(path)
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        (partial / LOCK).unlink()
        partial.rename(out)
