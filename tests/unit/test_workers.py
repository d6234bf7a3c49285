"""Work in processes: in order, a little ahead, nothing for nobody, and no process left behind by any end."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
from itertools import count
from multiprocessing import Event, Value, active_children

import pytest
import torch

from cogvid import UserError
from cogvid.data.workers import in_order


@pytest.mark.parametrize("workers", [0, 2])
def test_work_comes_in_order_and_runs_only_a_few_items_ahead(workers: int) -> None:
    started = Value("i", 0)

    def work(number: int) -> int:
        with started.get_lock():
            started.value += 1
        return number

    ahead = 0
    for place, item in enumerate(in_order(work, range(100), workers)):
        assert item == place
        ahead = max(ahead, started.value - place)
    assert started.value == 100
    assert 1 <= ahead <= 1 + 3 * workers
    items = in_order(work, range(100), workers)
    next(items)
    items.close()
    assert started.value <= 101 + 3 * workers  # nobody waits for the others


@pytest.mark.parametrize("workers", [0, 2])
def test_items_without_an_end_are_asked_for_only_a_few_ahead(workers: int) -> None:
    asked = iter(count())
    items = in_order(lambda number: number, asked, workers)
    assert [next(items) for _ in range(10)] == list(range(10))
    items.close()
    assert next(asked) <= 10 + 2 * workers
    assert not active_children()


def test_a_worker_that_is_ended_with_a_lock_of_torch_in_its_hands_keeps_nobody_waiting() -> None:
    first, locked = Event(), Event()

    def work(number: int) -> int:
        if number:
            # The first result is on its way by then: what would send it may be locked, too.
            first.wait(60)
            for event in gc.get_objects():
                if type(event) is type(locked) and event is not locked:  # proxies of the dead raise at isinstance
                    event._cond.acquire(False)  # one left over from before may be locked for ever
            locked.set()
            time.sleep(60)
        return number

    items = in_order(work, range(2), 1)
    next(items)
    first.set()
    assert locked.wait(60)
    closing = threading.Thread(target=items.close, daemon=True)
    closing.start()
    del items
    closing.join(20)
    assert not closing.is_alive()
    assert not active_children()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_work_is_raised_in_its_place(workers: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise UserError("three")
        return number

    done: list[int] = []
    with pytest.raises(UserError, match=r"^three$"):
        done.extend(in_order(work, range(50), workers))
    assert done == [0, 1, 2]
    assert not active_children()


def test_many_items_are_worth_processes_of_their_own() -> None:
    one = {int(pid) for pid in in_order(lambda _: os.getpid(), range(3))}
    many = {int(pid) for pid in in_order(lambda _: torch.tensor(os.getpid()), range(100))}
    assert one == {os.getpid()}
    assert os.getpid() not in many


@pytest.mark.parametrize(("signum", "consumer"), [(signal.SIGINT, "waits"), (signal.SIGKILL, "is busy")])
def test_a_worker_that_is_killed_is_one_clear_error_where_its_result_is_wanted(
    signum: signal.Signals, consumer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ready = Event()

    def work(number: int) -> int:
        if number == 3:
            ready.wait()
            os.kill(os.getpid(), signum)
        return os.getpid()

    items = in_order(work, range(50), 2)
    _, killed = next(items), next(items)
    ready.set()
    if consumer == "is busy":  # when the worker dies
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    with pytest.raises(
        UserError, match=rf"^A worker process \({killed}\) was killed by {signum.name}, .* memory ran out"
    ):
        list(items)
    assert not active_children()
    assert capfd.readouterr() == ("", "")


# Reports its workers, then waits for ever: for an item that is never made, or with one that it has.
PROGRAM = """
import os, sys
from itertools import count
from threading import Event
from cogvid.cli.errors import plain_errors
from cogvid.data.workers import in_order

def work(number):
    os.write(1, b"%d\\n" % os.getpid())
    if sys.argv[1] == "working":
        Event().wait()
    return number

import typer
try:
    with plain_errors(debug=False):
        for number in in_order(work, count(), 2):
            Event().wait()
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


def ends(pid: int) -> bool:
    """Whether a process ends, or has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 20)[0])
    finally:
        os.close(handle)


@pytest.mark.parametrize("workers_are", ["working", "waiting"])
@pytest.mark.parametrize(
    ("signum", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM to all", "SIGKILL"],
)
def test_a_signal_ends_all_processes_without_a_word_of_the_workers(
    signum: signal.Signals, to_all: bool, workers_are: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, workers_are],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers: set[int] = set()
    while len(workers) < 2:
        workers.add(int(process.stdout.readline()))
    (os.killpg if to_all else os.kill)(process.pid, signum)
    # The pipes end when the last process has.
    _, said = process.communicate(timeout=30)
    assert all(ends(worker) for worker in workers)
    if signum == signal.SIGKILL:
        assert (process.returncode, said) == (-signum, "")
    else:
        assert (process.returncode, said) == (128 + signum, f"Error: Interrupted by {signum.name}.\n")
