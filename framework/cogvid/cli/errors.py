"""What the command line shows of errors: a paragraph for a mistake of the user, else a traceback."""

from __future__ import annotations

import errno
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from cogvid.errors import Interrupted, SaidElsewhere, UserError

# What a shell reports for a command that a signal stopped: this and the signal's number.
_BY_SIGNAL = 128


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Show a `UserError`, a full disk, Ctrl-C or SIGTERM on stderr as one paragraph, and end with an exit code.

    Args:
        debug: let errors through with their traceback.
    """
    came: list[int] = []
    try:
        with _raised(signal.SIGINT, came), _raised(signal.SIGTERM, came):
            try:
                yield
            except SaidElsewhere:
                raise
            except Exception:
                # A signal in the middle of an import leaves modules half made, and others fail over them.
                if came:
                    raise Interrupted(came[0]) from None
                raise
    except (Interrupted, KeyboardInterrupt) as interruption:
        signum = interruption.signum if isinstance(interruption, Interrupted) else signal.SIGINT
        _show(" ".join([str(Interrupted(signum)), *getattr(interruption, "__notes__", ())]))
        raise typer.Exit(_BY_SIGNAL + signum) from None
    except SaidElsewhere as error:
        raise typer.Exit(error.code) from None
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


@contextmanager
def _raised(signum: signal.Signals, came: list[int]) -> Iterator[None]:
    """Raise `Interrupted` where the process is when a signal comes, and keep its number in `came`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        came.append(number)
        raise Interrupted(number)

    previous = signal.signal(signum, interrupt)
    try:
        yield
    finally:
        signal.signal(signum, previous)


def _full_disk(error: OSError) -> str:
    # A write to an open file does not say which; then the current folder is the best guess.
    path = Path(error.filename) if error.filename else Path.cwd()
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free / 2**20
    written = f"writing {path}" if error.filename else f"writing a file (in {path} or below?)"
    return f"No space left while {written}: {free:.0f} MB are free there. Make room, then run the command again."


def _show(message: str) -> None:
    Console(stderr=True).print(Text("Error: ", style="bold red").append(message, style="default"), soft_wrap=True)
