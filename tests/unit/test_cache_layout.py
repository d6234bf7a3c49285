"""Where slots stand in the cache, and which of them lie in one piece."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import AttentionBackend, Grid, Position, create_component
from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.generation.layout import CacheLayout

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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases, text=st.integers(0, 9))
def test_every_slot_stands_somewhere_and_each_piece_has_its_text(
    case: tuple[AttentionBackend, Stage, int], text: int
) -> None:
    layout = CacheLayout.of(mask_of(*case), given_frames(case[1], GRID.frames), text)
    texts = layout.texts[:, None] + torch.arange(text)
    taken = torch.cat([layout.places.flatten(), texts.flatten()])
    assert torch.equal(taken.sort().values, torch.arange(layout.size))
    assert torch.equal(layout.slots[layout.places.flatten()], torch.arange(GRID.tokens))
    assert layout.size <= 2 * GRID.tokens + text


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases, text=st.integers(1, 9))
def test_neighbours_are_those_of_the_mask(case: tuple[AttentionBackend, Stage, int], text: int) -> None:
    mask = mask_of(*case)
    layout = CacheLayout.of(mask, given_frames(case[1], GRID.frames), text)
    neighbours, slots = Neighbours(mask, layout), torch.arange(GRID.tokens)
    counts, pieces = neighbours.counts(slots).tolist(), neighbours.pieces(slots).tolist()
    found = neighbours.places(slots, GRID.tokens).tolist()
    begins = layout.texts.tolist()
    for slot, seen in enumerate(mask.dense()):
        places = layout.places.flatten()[seen].sort().values.tolist()
        assert found[slot] == places + [0] * (GRID.tokens - len(places))
        assert counts[slot] == len(places)
        runs = [begin for begin in begins if places == [*range(begin + text, begin + text + len(places))]]
        assert pieces[slot] == (runs[0] if runs else -1)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("backend", [create_component("attention", "naive"), swin_ar(2, 3)], ids=["naive", "swin_ar"])
def test_what_a_window_sees_lies_in_one_piece(backend: AttentionBackend, stage: Stage, layer: int) -> None:
    known = given_frames(stage, GRID.frames)
    mask = mask_of(backend, stage, layer)
    layout = CacheLayout.of(mask, known, 8)
    generated = torch.arange(GRID.tokens).view(GRID.frames, -1)[~torch.tensor(known)]
    assert (Neighbours(mask, layout).pieces(generated) >= 0).all()
    assert (len(layout.texts) > 1) == (type(backend).__name__ == "SwinAR")


def test_a_text_that_is_longer_than_its_windows_stands_once() -> None:
    mask = mask_of(swin_ar(1, 1))
    assert len(CacheLayout.of(mask, (False,) * GRID.frames, 6).texts) == 1
    assert len(CacheLayout.of(mask, (False,) * GRID.frames, 5).texts) == GRID.frame_tokens


def test_what_overlaps_is_one_piece() -> None:
    local = create_component("attention", "local3d", {"extent": [2, 2, 2]})
    assert len(CacheLayout.of(mask_of(local), (False,) * GRID.frames, 1).texts) == 1
