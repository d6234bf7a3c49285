"""Where slots stand in the cache, and which of them lie in one piece."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import AttentionBackend, Grid, Position, create_component
from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.generation.layout import CacheLayout, Neighbours, frame_ranks
from cogvid.interfaces.mask import Stage, given_frames

GRID = Grid(5, 4, 5)


class Labelled(AttentionBackend):
    """A slot sees the places of its frame's own label: labels (N,) of places, and how many frames back."""

    def __init__(self, labels: Tensor, width: int, frames: int) -> None:
        super().__init__(None)
        self.labels, self.width, self.frames = labels, width, frames

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        own, other = (self.labels[x.row * self.width + x.column] for x in (query, key))
        return (own == other) & (query.frame - key.frame < self.frames)


def known_frames(stage: Stage, first: int) -> tuple[bool, ...]:
    return (
        given_frames(stage, GRID.frames) if stage == "interpolation" else tuple(t < first for t in range(GRID.frames))
    )


def mask_of(backend: AttentionBackend, stage: Stage = "sequential", layer: int = 0) -> CompactMask:
    return layer_masks(backend.pattern, GRID, given_frames(stage, GRID.frames), layer + 1)[layer]


def swin_ar(*window: int, **options: object) -> AttentionBackend:
    backend: AttentionBackend = create_component("attention", "swin_ar", {"window": list(window), **options})
    return backend


labelled = st.builds(
    lambda labels, frames: Labelled(torch.tensor(labels), GRID.width, frames),
    st.lists(st.integers(0, 2), min_size=GRID.frame_tokens, max_size=GRID.frame_tokens),
    st.integers(1, 6),
)
local = st.builds(
    lambda *extent: create_component("attention", "local3d", {"extent": extent}), *3 * [st.integers(1, 6)]
)
windows = st.builds(swin_ar, st.integers(1, 4), st.integers(1, 5))
cases = st.tuples(
    st.one_of(labelled, local, windows), st.sampled_from(["sequential", "interpolation"]), st.integers(0, 1)
)


def shown(layout: CacheLayout, mask: Tensor) -> Tensor:
    """Which places the mask shows to each slot, the text among them; bool (L, P)."""
    places = torch.zeros(GRID.tokens, layout.size, dtype=torch.bool)
    places[:, : layout.text] = True
    query, key = mask.nonzero(as_tuple=True)
    places[query, layout.place[key]] = True
    return places


def generated_slots(known: tuple[bool, ...]) -> Tensor:
    return (~torch.tensor(known)).repeat_interleave(GRID.frame_tokens)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=cases, text=st.integers(0, 9), first=st.integers(0, 3))
def test_every_slot_stands_behind_the_text_of_a_part_at_a_place_of_its_own(
    case: tuple[AttentionBackend, Stage, int], text: int, first: int
) -> None:
    for layout in (
        CacheLayout.of(mask_of(*case), known_frames(case[1], first), text),
        CacheLayout.of_frames(GRID, known_frames(case[1], first), text),
    ):
        stand = list(zip(layout.part.tolist(), layout.place.tolist(), strict=True))
        assert len(set(stand)) == GRID.tokens
        assert all(0 <= part < layout.parts and text <= place < layout.size for part, place in stand)
        assert layout.slots.shape == (layout.parts, layout.size)
        assert [int(layout.slots[at]) for at in stand] == list(range(GRID.tokens))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=cases, text=st.integers(0, 9), first=st.integers(0, 3))
def test_of_its_part_a_generated_slot_sees_the_text_and_what_the_mask_shows(
    case: tuple[AttentionBackend, Stage, int], text: int, first: int
) -> None:
    mask, known = mask_of(*case), known_frames(case[1], first)
    layout, own = CacheLayout.of(mask, known, text), generated_slots(known)
    query, key = (mask.dense() & own[:, None]).nonzero(as_tuple=True)
    assert torch.equal(layout.part[query], layout.part[key])
    seen = shown(layout, mask.dense())[own]
    assert torch.equal(~layout.hidden(torch.arange(GRID.tokens)[own]), seen)
    if layout.leading is not None:
        assert torch.equal(torch.arange(layout.size) < layout.leading[own][:, None], seen)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=cases, text=st.integers(0, 9), table=st.booleans())
def test_neighbours_are_those_of_the_mask(case: tuple[AttentionBackend, Stage, int], text: int, table: bool) -> None:
    mask, known = mask_of(*case), given_frames(case[1], GRID.frames)
    layout = CacheLayout.of(mask, known, text)
    if layout.parts > 1:  # then nobody asks
        return
    neighbours = Neighbours(mask, layout)
    if not table:
        neighbours.table = None
    found, seen = neighbours.of(torch.arange(GRID.tokens)), shown(layout, mask.dense())[:, text:]
    assert neighbours.most == max(1, int(seen.sum(1).max()))
    places = torch.where(seen, torch.arange(text, layout.size), layout.size).sort(1).values
    assert torch.equal(found, places[:, : neighbours.most])


def test_in_the_base_channel_a_slot_sees_its_frame_up_to_itself() -> None:
    layout = CacheLayout.of_frames(GRID, known_frames("interpolation", 0), 3)
    slots = torch.arange(GRID.tokens)
    frames = slots // GRID.frame_tokens
    own = frames[:, None] == frames
    assert torch.equal(layout.part[:, None] == layout.part, own)
    assert torch.equal(~layout.hidden(slots), shown(layout, own & (slots <= slots[:, None])))


def test_known_frames_stand_in_front() -> None:
    assert frame_ranks((True, False, True, False, True)).tolist() == [0, 3, 1, 4, 2]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("backend", [create_component("attention", "naive"), swin_ar(2, 3)], ids=["naive", "swin_ar"])
def test_what_a_window_sees_lies_in_one_piece(backend: AttentionBackend, stage: Stage, layer: int) -> None:
    layout = CacheLayout.of(mask_of(backend, stage, layer), known_frames(stage, 0), 8)
    assert layout.leading is not None
    assert (layout.parts > 1) == (type(backend).__name__ == "SwinAR")


def test_a_text_that_is_longer_than_its_windows_stands_once() -> None:
    mask = mask_of(swin_ar(1, 1))
    assert CacheLayout.of(mask, (False,) * GRID.frames, 6).parts == 1
    assert CacheLayout.of(mask, (False,) * GRID.frames, 5).parts == GRID.frame_tokens


def test_what_overlaps_is_one_part_that_is_gathered_where_little_is_seen() -> None:
    wide, narrow = (
        CacheLayout.of(mask_of(create_component("attention", "local3d", {"extent": extent})), (False,) * GRID.frames, 1)
        for extent in ([5, 4, 2], [1, 1, 2])
    )
    assert wide.parts == narrow.parts == 1
    assert not wide.sparse
    assert narrow.sparse
    assert (wide.seen, narrow.seen) == (wide.size, narrow.neighbours.most)
