"""Results that go from process to process several at once are what they are alone."""

from __future__ import annotations

import os

import pytest
import torch

from cogvid import UserError
from cogvid.data.messages import in_messages


@pytest.mark.parametrize("size", [300_000, 800_000, 1 << 30], ids=["thirteen", "five", "one"])
@pytest.mark.parametrize("workers", [0, 2])
def test_results_sent_together_are_what_they_are_alone(workers: int, size: int) -> None:
    def work(number: int) -> torch.Tensor:
        return torch.full((number % 3, 2), number, dtype=torch.uint8)

    found = list(in_messages(work, range(5, 42), size, workers))
    assert len(found) == 37
    for number, each in enumerate(found, start=5):
        assert torch.equal(each, work(number))


def test_several_results_come_in_one_message() -> None:
    def work(number: int) -> torch.Tensor:
        return torch.tensor([os.getpid(), number])

    pids = [int(each[0]) for each in in_messages(work, range(64), 16, 2)]
    assert all(len(set(pids[start : start + 16])) == 1 for start in range(0, 64, 16))
    assert len(set(pids)) == 2


@pytest.mark.parametrize("wrong", [0, 6, 49])
def test_an_error_is_raised_behind_the_results_before_it(wrong: int) -> None:
    def work(number: int) -> torch.Tensor:
        if number == wrong:
            raise UserError("wrong")
        return torch.tensor(number)

    done: list[int] = []
    with pytest.raises(UserError, match=r"^wrong$"):
        done.extend(int(item) for item in in_messages(work, range(50), 200_000, 2))
    assert done == list(range(wrong))
