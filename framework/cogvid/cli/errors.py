"""What the command line shows of errors: a paragraph for a mistake of the user, else a traceback."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from cogvid.errors import UserError

INTERRUPTED = 130  # what a shell reports for a command stopped by Ctrl-C


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Show a `UserError`, a full disk or Ctrl-C on stderr as one paragraph, and end with an exit code.

    Args:
        debug: let errors through with their traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        _show("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None
    except UserError as error:
        if debug:
            raise
        _show(str(error))
        raise typer.Exit(1) from None
    except OSError as error:
        if debug or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _show(_full_disk(error))
        raise typer.Exit(1) from None


def _full_disk(error: OSError) -> str:
    # A write to an open file does not say which; then the current folder is the best guess.
    path = Path(error.filename) if error.filename else Path.cwd()
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    written = f"writing {path}" if error.filename else f"writing a file (in {path} or below?)"
    return f"No space left while {written}: {free:.0f} MB are free there. Make room, then run the command again."


def _show(message: str) -> None:
    Console(stderr=True).print(Text("Error: ", style="bold red").append(message, style="default"), soft_wrap=True)
