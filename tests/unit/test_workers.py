"""Work in processes: in order, a little ahead, and nothing for nobody."""

from __future__ import annotations

import os
from multiprocessing import Value

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
def test_an_error_in_the_work_is_raised_in_its_place(workers: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise UserError("three")
        return number

    done: list[int] = []
    with pytest.raises(UserError, match=r"^three$"):
        done.extend(in_order(work, range(50), workers))
    assert done == [0, 1, 2]


def test_many_items_are_worth_processes_of_their_own() -> None:
    one = {int(pid) for pid in in_order(lambda _: os.getpid(), range(3))}
    many = {int(pid) for pid in in_order(lambda _: torch.tensor(os.getpid()), range(100))}
    assert one == {os.getpid()}
    assert os.getpid() not in many
