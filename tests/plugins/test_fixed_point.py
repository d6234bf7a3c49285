"""How far ahead `fixed_point` looks follows from how many of its guesses were right."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid import Grid
from cogvid.interfaces.decoding import Clips, Dependencies
from cogvid_plugins.decoding.fixed_point import FixedPoint

GRID = Grid(2, 8, 8)
BATCH = 3


def decode(truth: Tensor, free_rows: float) -> tuple[int, int]:
    """Passes and rows of frames (B, N) behind a known one full of zeros, whose tokens each need those before them."""
    n = GRID.frame_tokens
    tape = torch.zeros(len(truth), 2, n + 1, dtype=torch.long)
    clips = Clips(Dependencies(GRID, (True, False), torch.full((2, n, 2), -1)), tape, free_rows)
    decoder = FixedPoint(FixedPoint.Config()).start(clips)
    passes, computed = 0, 0
    wrong = torch.arange(1000, 1000 + n)
    while (rows := decoder.next_rows()) is not None:
        passes, computed = passes + 1, computed + len(rows.slots)
        place = rows.slots % n
        before = torch.arange(n) < place[:, None]
        right = ((tape[rows.samples, 1, 1:] == truth[rows.samples]) | ~before).all(1)
        clips.read(rows)
        clips.write(torch.where(right, truth[rows.samples, place], wrong[place] + passes))
        decoder.final()
    assert torch.equal(tape[:, 1, 1:], truth)
    return passes, computed


def test_good_guesses_are_followed_far() -> None:
    passes, computed = decode(torch.zeros(BATCH, GRID.frame_tokens, dtype=torch.long), free_rows=64)
    assert passes <= 4
    assert computed == BATCH * GRID.frame_tokens


def test_guesses_that_are_never_right_are_hardly_tried() -> None:
    truth = torch.arange(1, GRID.frame_tokens + 1).expand(BATCH, -1)
    passes, computed = decode(truth, free_rows=4)
    assert passes == GRID.frame_tokens
    assert computed <= 1.25 * truth.numel()


def test_where_a_row_costs_nothing_more_are_tried() -> None:
    truth = (torch.arange(GRID.frame_tokens) % 7 == 6).long().expand(BATCH, -1)
    assert decode(truth, free_rows=1000)[0] < decode(truth, free_rows=1)[0]
