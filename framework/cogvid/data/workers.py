"""Work on many items in processes of its own, in order, a little ahead of who uses the results."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset

from cogvid.errors import UserError

Index = TypeVar("Index")
Item = TypeVar("Item")
# Starting processes takes as long as the work on so many items, about.
_WORTH_IT = 16
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of prctl: which signal a process gets when the one that started it has ended.
_PARENT_DEATH_SIGNAL = 1
# Seconds.
_A_MOMENT = 5


def processors() -> int:
    """How many processes can run at once here."""
    return len(os.sched_getaffinity(0))


def workers_for(items: int) -> int:
    """How many processes to start for so many items: as many as can run at once where that is worth it, else none."""
    return processors() if items >= _WORTH_IT and processors() > 1 else 0


def in_order(
    work: Callable[[Index], Item], indices: Iterable[Index], workers: int | None = None
) -> Generator[Item, None, None]:
    """`work(index)` for each index, in order.

    The work runs ahead of what uses its results by two items for each process; no more of them wait in memory. The
    processes end with the iteration, whatever ends it.

    Args:
        work: on one item; its result goes from process to process, tensors without a copy.
        indices: of the items, with or without an end.
        workers: processes; 0 for this one, None for as many as can run at once where that is worth their start.

    Raises:
        UserError: as `work` does, or a process was killed.
    """
    if workers is None:
        workers = workers_for(len(indices)) if isinstance(indices, Sized) else processors()
    if not workers:
        yield from map(work, indices)
        return
    loader = DataLoader(
        _Work(work),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=2,
        worker_init_fn=_obey_signals,
    )
    items: Any = None
    processes: list[BaseProcess] = []
    try:
        # A worker that a signal meets before it is ready would handle it as this process does.
        with _signals_held():
            others, on_end = set(active_children()), signal.getsignal(signal.SIGCHLD)
            items = iter(loader)
            processes = [process for process in active_children() if process not in others]
            # With its own handler torch raises from the middle of whatever this process does when a worker ends;
            # without it, where the worker's result is waited for.
            if on_end is not signal.getsignal(signal.SIGCHLD):
                signal.signal(signal.SIGCHLD, on_end)
        for item in items:
            if isinstance(item, UserError):
                raise item
            yield item
    except UserError:
        raise
    except Exception as error:
        killed = _first_killed(processes, error)
        if killed is None:
            raise
        raise _killed(killed) from error
    finally:
        with _signals_held():
            _end(items, processes)


def _end(items: Any, processes: Sequence[BaseProcess]) -> None:
    """End the workers, whatever they are at, and torch's part in it.

    torch would tell workers the end by an event, whose lock they take between items. A worker that is killed with it
    in its hands takes it along, and who tells the end then waits for ever: nobody does.
    """
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    if items is not None and not items._shutdown:
        items._shutdown = True
        _remove_worker_pids(id(items))


class _Work(Dataset[Any]):
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.work(index)
        except UserError as error:  # raised where the results are wanted: a loader would wrap it in a traceback
            return error


def _obey_signals(worker: int) -> None:
    """In a worker: Ctrl-C, which the terminal sends to all processes, ends it without a word; SIGTERM does already, and
    so does the end of the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let the signals that ask a command to end wait until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _first_killed(processes: Sequence[BaseProcess], error: Exception) -> BaseProcess | None:
    """The process whose end made the error, if one did."""
    # Its connections break a moment before it has ended.
    broken = isinstance(error, OSError | EOFError)
    ended = wait([process.sentinel for process in processes], timeout=_A_MOMENT if broken else 0)
    for process in processes:
        if process.sentinel in ended:
            process.join(_A_MOMENT)
            if process.exitcode:
                return process
    return None


def _killed(process: BaseProcess) -> UserError:
    code = process.exitcode or 0
    cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return UserError(
        f"A worker process ({process.pid}) {cause}, most likely because memory ran out: the machine's, or what "
        "processes share in /dev/shm. Make room or use fewer workers (trainer.workers, of a training), then run the "
        "command again: it goes on with what is finished."
    )
