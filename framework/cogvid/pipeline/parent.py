"""A process that ends with the one that started it, whatever ends that one."""

from __future__ import annotations

import ctypes
import signal

_PARENT_DEATH_SIGNAL = 1  # of prctl
# Loaded before any fork: a forked process can rely on little.
_LIBC = ctypes.CDLL(None)


def end_with_parent() -> None:
    """In a process that has just been forked: be killed when its parent has ended."""
    _LIBC.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
