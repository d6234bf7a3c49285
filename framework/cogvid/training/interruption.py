"""Ctrl-C and SIGTERM while a stage trains: no step is left half done, and none that is done is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

from cogvid.errors import Interrupted
from cogvid.training import job
from cogvid.training.steps import StepCallback

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(StepCallback):
    """Raises `Interrupted` when a signal comes: at once between two steps, else when the step is done.

    What callbacks before this one do at the end of a step counts as part of it. When all steps are done, Lightning
    cleans up in peace first.

    A signal comes to each of several processes at another moment, or to one of them alone. They agree on it at the end
    of every step, and all raise it there.
    """

    def __init__(self) -> None:
        self.in_step = False
        self._came: int | None = None
        self._ending = False
        self._several = job.processes() > 1

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals while the block runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            self._end()
            return
        previous = [signal.getsignal(signum) for signum in _SIGNALS]
        self._install()
        try:
            yield
        finally:
            for signum, handler in zip(_SIGNALS, previous, strict=True):
                signal.signal(signum, handler)
        self._end()

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Raise nothing while the block runs, but behind it."""
        before, self.in_step = self.in_step, True
        try:
            yield
        finally:
            self.in_step = before
        if self._came is not None and not before and not self._several:
            self._raise(self._came)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # Lightning has put a handler of its own around, which ends a training without a word.
        if threading.current_thread() is threading.main_thread():
            self._install()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self.in_step = True

    def teardown(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        self.in_step = True

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.in_step = False
        self._end()

    def _end(self) -> None:
        """Raise what has come to any of the processes."""
        came = int(job.largest(self._came or 0)) if self._several else self._came
        if came:
            self._raise(came)

    def _install(self) -> None:
        for signum in _SIGNALS:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: object) -> None:
        if self._ending:  # what is left to write is being written
            return
        self._came = signum
        if not self.in_step and not self._several:
            self._raise(signum)

    def _raise(self, signum: int) -> None:
        if self._ending:
            return
        self._ending = True
        raise Interrupted(signum)
