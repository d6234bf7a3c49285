"""Decode schedules: the published numbers, what they may not break, and that none is shorter."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cogvid
from cogvid import AttentionBackend, Grid, Position, decode_schedule
from cogvid.attention.compact import layer_masks
from cogvid.generation.schedule import last_seen, sequential_schedule, shortest_schedule, steps_of
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

LAYERS = 3  # of small cases: windows repeat after two, scattered patterns never


class Scattered(AttentionBackend):
    """Neighbours by a hash of the two places, the layer and a seed; one in `rarity` is visible."""

    def __init__(self, seed: int, rarity: int) -> None:
        super().__init__(None)
        self.seed, self.rarity = seed, rarity

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        hashed = query.frame + self.seed * 1_009 + layer * 7_919
        for axis in (query.row, query.column, *key):
            hashed = (hashed * 48_271 + axis * 7_907 + 11) % 2_147_483_647
        same = (query.frame == key.frame) & (query.row == key.row) & (query.column == key.column)
        return same | ((hashed >> 7) % self.rarity == 0)


class Future(AttentionBackend):
    """A frame sees every other one, whatever comes first."""

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        return query.frame != key.frame


def local3d(*extent: int) -> Local3D:
    return Local3D(Local3D.Config(extent=list(extent)))


def swin_ar(*window: int, frames: int | None = None) -> SwinAR:
    return SwinAR(SwinAR.Config(window=list(window), frames=frames))


BUILT_IN = [Naive(), local3d(2, 1, 1), local3d(2, 1, 2), local3d(3, 2, 2), swin_ar(2, 2), swin_ar(1, 2, frames=2)]
scattered = st.builds(Scattered, st.integers(0, 10**6), st.sampled_from([2, 8, 20, 40, 100]))
stages = st.sampled_from(["sequential", "interpolation"])


def known_frames(stage: Stage, frames: int) -> tuple[bool, ...]:
    """As the stage has them, on as many frames as it can have."""
    return given_frames(stage, frames if stage == "sequential" else max(3, frames - (frames + 1) % 2))


def dense_masks(backend: AttentionBackend, grid: Grid, given: tuple[bool, ...], layers: int = LAYERS) -> list[Tensor]:
    return [Visibility(backend.pattern, grid, given, layer).dense() for layer in range(layers)]


def seen_elsewhere(dense: list[Tensor], n: int) -> Tensor:
    """Which slots of other frames a slot sees in any layer, bool (tokens, tokens)."""
    frame = torch.arange(len(dense[0])) // n
    return torch.stack(dense).any(0) & (frame[:, None] != frame)


def by_recurrence(dense: list[Tensor], known: tuple[bool, ...], n: int) -> list[list[int]]:
    """The schedule slot by slot, as its definition says."""
    seen = seen_elsewhere(dense, n)
    steps = {slot: -1 for slot in range(len(seen)) if known[slot // n]}
    for slot in range(len(seen)):
        if not known[slot // n]:
            before = steps[slot - 1] if slot % n else -1
            steps[slot] = max([before + 1, *(steps[key] for key in seen[slot].nonzero()[:, 0].tolist())])
    return [[steps[frame * n + place] for place in range(n)] for frame in range(len(known))]


def fewest_steps(dense: list[Tensor], known: tuple[bool, ...], n: int) -> int:
    """The fewest steps of all schedules, by trying each of them breadth first: no recurrence.

    A state says how many slots of each frame are done. In a step any set of frames advances by a slot, if what the
    new slots see in other frames is done before the step or in it.
    """
    seen = seen_elsewhere(dense, n)
    frames = range(len(known))
    # How many slots of each frame must be done with a slot: those up to the last one that it sees.
    needs = [
        [max([key % n + 1 for key in row.nonzero()[:, 0].tolist() if key // n == frame], default=0) for frame in frames]
        for row in seen
    ]
    start = tuple(n if each else 0 for each in known)
    goal = (n,) * len(known)
    states, steps = {start}, 0
    while goal not in states:
        following = set()
        for state in states:
            free = [frame for frame in frames if state[frame] < n]
            for some in chain.from_iterable(combinations(free, size) for size in range(1, len(free) + 1)):
                after = tuple(done + (frame in some) for frame, done in enumerate(state))
                if all(need <= done for f in some for need, done in zip(needs[f * n + state[f]], after, strict=True)):
                    following.add(after)
        states, steps = following, steps + 1
    return steps


def check(schedule: Tensor, masks: list[Tensor], known: tuple[bool, ...], n: int) -> None:
    """The recurrence holds, and with it all that a schedule must not break."""
    assert schedule.tolist() == by_recurrence(masks, known, n)
    generated = ~torch.tensor(known)
    assert (schedule[~generated] == -1).all()
    assert (schedule[generated, 0] >= 0).all()
    assert (schedule[generated].diff(dim=1) >= 1).all()
    flat = schedule.flatten()
    frame = torch.arange(len(flat)) // n
    for mask in masks:
        query, key = (mask & (frame[:, None] != frame)).nonzero().T
        assert (flat[query] >= flat[key]).all()


@pytest.mark.parametrize(
    ("grid", "backend", "steps"),
    [
        (Grid(5, 20, 20), swin_ar(10, 10), 1156),
        (Grid(5, 20, 20), swin_ar(5, 5), 736),
        (Grid(5, 20, 20), swin_ar(4, 4), 652),
        (Grid(5, 20, 20), local3d(3, 3, 3), 568),
        (Grid(5, 20, 20), local3d(3, 6, 6), 820),
        (Grid(5, 60, 60), swin_ar(10, 10), 5796),
        (Grid(33, 20, 20), swin_ar(10, 10), 6448),
        (Grid(33, 20, 20), swin_ar(5, 5), 3088),
        (Grid(33, 20, 20), local3d(3, 3, 3), 1744),
        (Grid(8, 11, 17), local3d(2, 4, 2), 551),  # frames, rows, columns
        # One that sees all: only the last slot of a frame and the first of the next share a step.
        (Grid(5, 20, 20), Naive(), 5 * 399 + 1),
    ],
    ids=lambda value: str(value) if isinstance(value, int | Grid) else f"{type(value).__name__}-{value.config}",
)
def test_a_schedule_has_the_number_of_steps_that_is_known(grid: Grid, backend: AttentionBackend, steps: int) -> None:
    assert int(decode_schedule(backend, grid).max()) + 1 == steps


@settings(max_examples=100, deadline=None)
@given(
    backend=st.sampled_from(BUILT_IN) | scattered,
    sides=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4)),
    stage=stages,
)
def test_a_schedule_is_the_recurrence_on_the_dense_mask(
    backend: AttentionBackend, sides: tuple[int, int, int], stage: Stage
) -> None:
    known = known_frames(stage, sides[0])
    grid = Grid(len(known), *sides[1:])
    schedule = decode_schedule(backend, grid, stage, layers=LAYERS)
    check(schedule, dense_masks(backend, grid, known), known, grid.frame_tokens)


@settings(max_examples=100, deadline=None)
@given(
    backend=st.sampled_from(BUILT_IN) | scattered,
    sides=st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)),
    prefix=st.integers(1, 4),
)
def test_known_frames_before_the_others_are_waited_for_by_none(
    backend: AttentionBackend, sides: tuple[int, int, int], prefix: int
) -> None:
    grid, nothing = Grid(*sides), (False,) * sides[0]
    known = tuple(frame < min(prefix, grid.frames - 1) for frame in range(grid.frames))
    schedule = shortest_schedule(last_seen(layer_masks(backend.pattern, grid, nothing, LAYERS), known), known)
    check(schedule, dense_masks(backend, grid, nothing), known, grid.frame_tokens)


@settings(max_examples=100, deadline=None)
@given(
    backend=st.sampled_from(BUILT_IN) | scattered,
    sides=st.sampled_from([(1, 2, 3), (2, 2, 3), (3, 2, 2), (3, 2, 3), (4, 2, 2), (4, 1, 5), (5, 1, 3)]),
    stage=stages,
)
def test_no_schedule_is_shorter(backend: AttentionBackend, sides: tuple[int, int, int], stage: Stage) -> None:
    known = known_frames(stage, sides[0])
    grid = Grid(len(known), *sides[1:])
    schedule = decode_schedule(backend, grid, stage, layers=LAYERS)
    assert int(schedule.max()) + 1 == fewest_steps(dense_masks(backend, grid, known), known, grid.frame_tokens)


def test_no_schedule_of_a_longer_interpolation_is_shorter() -> None:
    known = given_frames("interpolation", 7)
    for backend in (*BUILT_IN, Scattered(1, 4)):
        schedule = decode_schedule(backend, Grid(7, 2, 3), "interpolation", layers=LAYERS)
        dense = dense_masks(backend, Grid(7, 2, 3), known)
        assert int(schedule.max()) + 1 == fewest_steps(dense, known, 6)


def test_slots_wait_for_what_they_see_in_any_layer() -> None:
    one, two, three = (decode_schedule(Scattered(5, 40), Grid(3, 3, 3), layers=layers) for layers in (1, 2, 3))
    assert (one <= two).all()
    assert (two <= three).all()
    assert len({int(one.sum()), int(two.sum()), int(three.sum())}) == 3


@pytest.mark.parametrize("known", [(False,) * 3, (True, False, False), (False, True, False), (True, True, False)])
def test_the_sequential_schedule_is_one_slot_a_step_in_order(known: tuple[bool, ...]) -> None:
    grid = Grid(3, 2, 3)
    schedule = sequential_schedule(grid, known)
    assert schedule.dtype is torch.int64
    assert schedule.shape == (3, 6)
    assert (schedule[torch.tensor(known)] == -1).all()
    generated = schedule[~torch.tensor(known)]
    assert generated.flatten().tolist() == list(range(generated.numel()))


@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
def test_each_generated_slot_is_in_one_step(stage: Stage) -> None:
    schedule = decode_schedule(local3d(2, 2, 2), Grid(5, 3, 4), stage)
    steps = steps_of(schedule)
    assert len(steps) == int(schedule.max()) + 1
    for number, slots in enumerate(steps):
        assert slots.dtype is torch.int64
        assert len(slots)
        assert (slots.diff() > 0).all()
        assert (schedule.flatten()[slots] == number).all()
    assert torch.equal(torch.cat(steps).sort().values, (schedule.flatten() >= 0).nonzero()[:, 0])


def test_a_sequential_schedule_has_steps_of_one_slot_in_order() -> None:
    steps = steps_of(sequential_schedule(Grid(3, 2, 2), (False, True, False)))
    assert [slots.tolist() for slots in steps] == [[slot] for slot in (0, 1, 2, 3, 8, 9, 10, 11)]


def test_a_known_frame_that_sees_an_unknown_one_is_refused() -> None:
    masks = layer_masks(Naive().pattern, Grid(3, 2, 2), (False,) * 3, 1)
    with pytest.raises(ValueError, match="frame 1 is known, but sees frame 0"):
        last_seen(masks, (False, True, False))


def test_what_a_pattern_says_of_later_frames_does_not_count() -> None:
    assert decode_schedule(Future(), Grid(2, 1, 3)).tolist() == [[0, 1, 2], [2, 3, 4]]


def test_the_schedule_is_public_and_as_documented() -> None:
    assert cogvid.decode_schedule is decode_schedule
    assert "decode_schedule" in cogvid.__all__
    schedule = cogvid.decode_schedule(cogvid.create_component("attention", "local3d"), Grid(5, 3, 4), "interpolation")
    assert schedule.dtype is torch.int64
    assert schedule.shape == (5, 12)
    assert (schedule[::2] == -1).all()
    assert (schedule[1::2] >= 0).all()


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has in memory; a view that repeats some has no more of them."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
        self.elements = max([self.elements, *(len(x.untyped_storage()) // x.element_size() for x in tensors)])
        return made


@pytest.mark.parametrize("backend", [local3d(3, 6, 6), swin_ar(10, 10)], ids=["local3d", "swin_ar"])
def test_a_long_clip_is_scheduled_without_its_square(backend: AttentionBackend) -> None:
    grid = Grid(33, 60, 60)
    with Largest() as largest:
        schedule = decode_schedule(backend, grid)
    assert schedule.shape == (33, 3600)
    # A few masks between two frames, not one between all of them.
    assert grid.frame_tokens**2 <= largest.elements < 5e7 < grid.tokens**2
