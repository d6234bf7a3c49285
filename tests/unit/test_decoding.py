"""What must be final before a token can be, and the tape that decoders read and write."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import Grid
from cogvid.attention.compact import layer_masks
from cogvid.generation.schedule import last_seen, shortest_schedule
from cogvid.interfaces.decoding import Clips, Dependencies, Rows
from cogvid.interfaces.mask import given_frames
from cogvid.testing.decoding_cases import DecodingCase, RandomPattern

drawn = st.integers(0, 10**6).map(DecodingCase.draw).filter(lambda case: case.pattern is not None)


def dense_and_reach(case: DecodingCase) -> tuple[Tensor, Tensor]:
    """What each slot sees in any layer of the unknown slots of other frames, bool (L, L); and `last_seen`."""
    masks = layer_masks(
        RandomPattern(case.pattern).pattern, case.grid, given_frames(case.stage, case.grid.frames), case.layers
    )
    frame = torch.arange(case.grid.tokens) // case.grid.frame_tokens
    is_known = torch.tensor(case.is_known)[frame]
    apart = (frame[:, None] != frame) & ~is_known & ~is_known[:, None]
    return torch.stack([mask.dense() for mask in masks]).any(0) & apart, last_seen(masks, case.is_known)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(case=drawn)
def test_the_last_seen_is_that_of_a_slot_and_those_before_it_in_any_layer(case: DecodingCase) -> None:
    (dense, reach), grid = dense_and_reach(case), case.grid
    frames, n = grid.frames, grid.frame_tokens
    for frame in range(frames):
        before: list[int] = [-1] * frames
        for place in range(n):
            seen = dense[frame * n + place].view(frames, n)
            before = [max([last, *row.nonzero()[:, 0].tolist()]) for last, row in zip(before, seen, strict=True)]
            assert reach[frame, place].tolist() == before


@settings(max_examples=50, deadline=None, derandomize=True)
@given(case=drawn, seed=st.integers(0, 99), share=st.sampled_from([0.3, 0.8, 1.0]))
def test_final_are_as_many_as_see_only_what_is_final(case: DecodingCase, seed: int, share: float) -> None:
    (dense, reach), grid = dense_and_reach(case), case.grid
    frames, n = grid.frames, grid.frame_tokens
    draw = torch.Generator().manual_seed(seed)
    least = int((1 - share) * n)
    right = torch.randint(least, n + 1, (3, frames), generator=draw).clamp(max=n)
    right[:, torch.tensor(case.is_known)] = n
    before = right.clone()
    final = Dependencies(grid, case.is_known, reach).final(right)
    assert torch.equal(right, before)
    for sample in range(3):
        counts = right[sample].tolist()
        changed = True
        while changed:  # take away what sees anything else: what is left is the most there can be
            counted = torch.arange(n) < torch.tensor(counts)[:, None]
            blind = ~(dense & ~counted.flatten()).any(1).view(frames, n)
            fewer = [int((counted[t] & blind[t]).long().cumprod(0).sum()) for t in range(frames)]
            changed, counts = fewer != counts, fewer
        assert final[sample].tolist() == counts


@settings(max_examples=20, deadline=None, derandomize=True)
@given(case=drawn)
def test_the_shortest_schedule_computes_what_can_be_final_with_all_before(case: DecodingCase) -> None:
    _, reach = dense_and_reach(case)
    needs, schedule = Dependencies(case.grid, case.is_known, reach), shortest_schedule(reach, case.is_known)
    finished = torch.tensor(case.is_known).long()[None] * case.grid.frame_tokens
    for step in range(int(schedule.max()) + 1):
        finished = needs.final((finished + 1).clamp(max=case.grid.frame_tokens))
        assert torch.equal(finished[0], (schedule <= step).sum(1))


GRID = Grid(2, 2, 2)


@pytest.fixture
def clips() -> Clips:
    """Two samples of a known frame and another; each place of the tape holds its own number."""
    reach = torch.full((2, 4, 2), -1)
    return Clips(Dependencies(GRID, (True, False), reach), torch.arange(20).view(2, 2, 5))


ROWS = Rows(torch.tensor([0, 1, 1]), torch.tensor([4, 5, 7]))


def test_a_row_reads_the_place_of_its_slot_and_writes_the_next(clips: Clips) -> None:
    assert clips.read(ROWS).tolist() == clips.tape[ROWS.samples, 1, ROWS.slots - 4].tolist() == [5, 16, 18]
    before = clips.tape.clone()
    clips.write(torch.tensor([100, 101, 102]))
    assert clips.tape[ROWS.samples, 1, ROWS.slots - 3].tolist() == [100, 101, 102]
    assert int((clips.tape != before).sum()) == 3
    assert clips.written().tolist() == [100, 101, 102]


def test_what_is_read_is_a_copy(clips: Clips) -> None:
    read = clips.read(ROWS)
    clips.tape.zero_()
    assert read.tolist() == [5, 16, 18]
