"""The processes that do the work of one command together: torch.distributed's, or this one alone.

What is made once is made by the first of them, the leader, while the others wait; a training is all of them's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cogvid.errors import SaidElsewhere, UserError

T = TypeVar("T")
# The leader may make what others wait for during days.
_PATIENCE = timedelta(days=30)
_LOOK = 0.02  # seconds between looks at whether the wait is over
_group: Any = None
# The leader is at work that the others wait for: whatever that asks of a job, it is alone now.
_alone = False


def rank() -> int:
    """The number of this process; 0 leads."""
    return dist.get_rank() if _joined() else 0


def processes() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _joined() and not _alone else 1


def leads() -> bool:
    """Whether this process makes what is made once."""
    return rank() == 0


def once(work: Callable[[], T]) -> T:
    """What `work` gives in the leader, which alone does it; the others wait for it.

    Args:
        work: gives something that can be pickled.

    Raises:
        UserError: as `work` does in the leader; in the others `SaidElsewhere`, a `UserError` that need not be shown.
    """
    if processes() == 1:
        return work()
    outcome: list[Any] = [None, False]
    error: UserError | None = None
    if leads():
        try:
            with _by_itself():
                outcome[0] = work()
        except UserError as mistake:
            error, outcome[1] = mistake, True
    wait()
    with _peers():
        dist.broadcast_object_list(outcome, src=0, group=_waiting())
    if error is not None:
        raise error
    if outcome[1]:
        raise SaidElsewhere
    return outcome[0]


@contextmanager
def _by_itself() -> Iterator[None]:
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


@contextmanager
def said_once() -> Iterator[None]:
    """Let all processes do the same checks, and the leader alone say a mistake that it has found itself."""
    error: UserError | None = None
    try:
        yield
    except UserError as mistake:
        error = mistake
    if once(lambda: error is not None) and not leads():
        raise SaidElsewhere
    if error is not None:
        raise error


def wait() -> None:
    """Wait until all processes have come here; signals are heard meanwhile."""
    if processes() == 1:
        return
    with _peers():
        work = dist.barrier(group=_waiting(), async_op=True)
        while not work.is_completed():
            time.sleep(_LOOK)
        work.wait()


def sums(values: Sequence[float]) -> list[float]:
    """Sums over all processes, the same bits in each."""
    return _reduced(values, dist.ReduceOp.SUM)


def largest(value: float) -> float:
    """The largest of all processes' values."""
    return _reduced([value], dist.ReduceOp.MAX)[0]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order, in each of them.

    Args:
        value: something that can be pickled.
    """
    if processes() == 1:
        return [value]
    values: list[Any] = [None] * processes()
    with _peers():
        dist.all_gather_object(values, value, group=_waiting())
    return values


def _reduced(values: Sequence[float], how: Any) -> list[float]:
    if processes() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    with _peers():
        dist.all_reduce(tensor, how, group=_waiting())
    return tensor.tolist()


@contextmanager
def _peers() -> Iterator[None]:
    """Say it plainly where another process has ended: what is waited for will not come."""
    try:
        yield
    except RuntimeError as error:
        raise lost() from error


def lost(how: str = "what ended it is said above, or in the output of that process") -> UserError:
    """The error of a process whose job has lost another one; how: it ended, as far as is known."""
    if not leads():
        return SaidElsewhere()
    return UserError(
        f"Another process of this job has ended, so this one cannot go on: {how}. Run the command again to go on from "
        "the last checkpoint."
    )


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def _waiting() -> Any:
    """The processes' connections for waits that may be long, whatever the device that they train on."""
    global _group
    if _group is None:
        _group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    return _group


def leave() -> None:
    """End the connections to the other processes."""
    global _group
    _group = None
    if _joined():
        dist.destroy_process_group()
