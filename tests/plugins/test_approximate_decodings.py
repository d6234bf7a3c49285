"""Decodings that do not wait for all that a slot sees: their schedules, and that they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import Grid, create_component
from cogvid.attention.compact import layer_masks
from cogvid.config.schema import SamplingConfig
from cogvid.errors import UserError
from cogvid.generation.schedule import last_seen
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.decoding import Clips, Decoding, Dependencies, Rows
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.transformer import CogVideoTransformer

MakeModel = Callable[..., CogVideoTransformer]
GRID = Grid(3, 3, 4)
PLAIN = SamplingConfig(temperature=2.0)
OFFSET = 12


def decoding(name: str, options: Mapping[str, Any] | None = None) -> Decoding:
    made: Decoding = create_component("decoding", name, options)
    return made


def needs(grid: Grid, known: tuple[bool, ...], extent: tuple[int, int, int] = (2, 1, 1)) -> Dependencies:
    pattern = create_component("attention", "local3d", {"extent": [*extent]}).pattern
    return Dependencies(
        grid, known, last_seen(layer_masks(pattern, grid, given_frames("sequential", len(known)), 1), known)
    )


def schedule(name: str, options: dict[str, Any], known: tuple[bool, ...] = (False, False)) -> list[Any]:
    steps: Tensor = decoding(name, options).schedule(needs(Grid(len(known), 3, 4), known))  # type: ignore[attr-defined]
    return steps.unflatten(1, (3, 4)).tolist()  # type: ignore[no-any-return]


def test_diagonal_computes_the_diagonals_of_stacked_frames_at_once() -> None:
    assert schedule("diagonal", {}) == [
        [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]],
        [[3, 4, 5, 6], [4, 5, 6, 7], [5, 6, 7, 8]],
    ]
    assert schedule("diagonal", {"stride": 3}, (True, False)) == [
        [[-1] * 4, [-1] * 4, [-1] * 4],
        [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]],
    ]
    assert schedule("diagonal", {"stride": 2, "delay": 1})[1] == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8]]


def test_a_delay_longer_than_a_frame_leaves_no_step_empty() -> None:
    assert schedule("diagonal", {"delay": 100})[1][0] == [6, 7, 8, 9]


def test_early_rows_waits_for_the_row_above_and_for_what_a_slot_sees_of_other_frames() -> None:
    # A slot waits for all places of the frame before up to its own, so for the end of the row above there.
    assert schedule("early_rows", {"window": 2}) == [
        [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]],
        [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]],
    ]
    # The ends of the row above are no further ahead than the row is long.
    assert schedule("early_rows", {"window": 4}, (False,)) == [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]]


@pytest.mark.parametrize("option", [("diagonal", "stride"), ("early_rows", "window")])
def test_an_option_out_of_range_is_named(option: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=f"{option[1]}.*at least 1"):
        decoding(option[0], {option[1]: 0})


def test_a_row_that_begins_early_reads_the_newest_token_of_the_row_above() -> None:
    clips = Clips(needs(Grid(1, 2, 4), (False,)), torch.zeros(2, 1, 9, dtype=torch.long))
    decoder, read = decoding("early_rows", {"window": 2}).start(clips), {}
    step = 0
    while (rows := decoder.next_rows()) is not None:
        read |= {
            (step, slot): token for slot, token in zip(rows.slots.tolist(), clips.read(rows).tolist(), strict=True)
        }
        clips.write(rows.slots + 100)
        assert decoder.final().all()
        step += 1
    # Slot 4 begins the second row beside slot 2: the newest token is that of slot 1, and not yet that of slot 3.
    assert read == {
        (0, 0): 0,
        (1, 1): 100,
        (2, 2): 101,
        (2, 4): 101,
        (3, 3): 102,
        (3, 5): 104,
        (4, 6): 105,
        (5, 7): 106,
    }
    assert clips.tape[0, 0, 1:].tolist() == list(range(100, 108))


def generate(
    model: CogVideoTransformer,
    known: tuple[bool, ...],
    how: Decoding,
    sampling: SamplingConfig = PLAIN,
    batch: int = 2,
) -> tuple[Tensor, Counter[tuple[int, int]]]:
    """Tokens, and how often each (sample, slot) was computed."""
    draw = torch.Generator().manual_seed(2)
    grid, computed = model.config.grid, Counter[tuple[int, int]]()
    codes = torch.randint(0, 11, (batch, grid.frames, grid.frame_tokens), generator=draw)
    codes[:, ~torch.tensor(known)] = 0

    def count(rows: Rows, final: Tensor) -> None:
        assert len(rows.slots) == len(final) > 0
        assert final.all()
        computed.update(zip(rows.samples.tolist(), rows.slots.tolist(), strict=True))

    text = torch.randint(0, 8, (batch, 4), generator=draw) + OFFSET
    without = torch.full((batch, 4), 3 + OFFSET), torch.ones(batch, 4, dtype=torch.bool)
    tokens = generate_tokens(
        model,
        text,
        torch.ones(batch, 4, dtype=torch.bool),
        codes,
        known,
        sampling=sampling,
        seed=4,
        samples=torch.arange(batch),
        frame_ids=torch.arange(grid.frames).expand(batch, -1),
        begin_of_image=OFFSET - 1,
        unconditional=without if sampling.guidance != 1 else None,
        decoding=how,
        on_pass=count,
    )
    assert torch.equal(tokens[:, torch.tensor(known)], codes[:, torch.tensor(known)])
    return tokens, computed


@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
def test_as_wide_as_a_row_they_give_the_exact_tokens_and_narrower_others(make_model: MakeModel, stage: Stage) -> None:
    model = make_model(create_component("attention", "local3d", {"extent": [2, 1, 1]}), GRID, stage)
    known = given_frames(stage, GRID.frames) if stage == "interpolation" else (False,) * GRID.frames
    exact, _ = generate(model, known, decoding("sequential"))
    for name, option in (("diagonal", "stride"), ("early_rows", "window")):
        for wide in (GRID.width, 100):
            assert torch.equal(generate(model, known, decoding(name, {option: wide}))[0], exact)
        assert not torch.equal(generate(model, known, decoding(name, {option: 1}))[0], exact)
        assert not decoding(name).exact


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.just(3), st.integers(1, 3), st.integers(1, 4)),
    stage=st.sampled_from(["sequential", "interpolation"]),
    first=st.integers(0, 2),
    guided=st.booleans(),
    batch=st.integers(1, 3),
    how=st.one_of(
        st.tuples(
            st.just("diagonal"),
            st.fixed_dictionaries({"stride": st.integers(1, 5), "delay": st.none() | st.integers(0, 20)}),
        ),
        st.tuples(st.just("early_rows"), st.fixed_dictionaries({"window": st.integers(1, 5)})),
    ),
    attention=st.sampled_from(["naive", "local3d", "swin_ar"]),
)
def test_every_decoding_ends_and_computes_each_slot_once(
    make_model: MakeModel,
    shape: tuple[int, int, int],
    stage: Stage,
    first: int,
    guided: bool,
    batch: int,
    how: tuple[str, dict[str, Any]],
    attention: str,
) -> None:
    grid = Grid(*shape)
    model = make_model(create_component("attention", attention), grid, stage)
    given = given_frames(stage, grid.frames)
    known = given if stage == "interpolation" else tuple(frame < first for frame in range(grid.frames))
    tokens, computed = generate(model, known, decoding(*how), SamplingConfig(guidance=2.0 if guided else 1.0), batch)
    n = grid.frame_tokens
    slots = [frame * n + place for frame, there in enumerate(known) if not there for place in range(n)]
    assert computed == Counter((sample, slot) for sample in range(batch) for slot in slots)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < 11
