"""The passes of a clip: what is recorded of them, and that their animation shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvid import Grid
from cogvid.config.schema import GenerationConfig, SamplingConfig
from cogvid.data.text import CaptionEncoder
from cogvid.generation.clips import ClipGenerator
from cogvid.generation.schedule import decode_schedule
from cogvid.inspect.passes import ClipPasses, clip_passes
from cogvid.inspect.passes_animation import animate_passes, pass_states
from cogvid.inspect.schedule_animation import PICTURES, State
from cogvid.interfaces.decoding import Decoding
from cogvid.interfaces.interpolation import Round, Window
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.swin_ar import SwinAR
from cogvid_plugins.decoding.fixed_point import FixedPoint
from cogvid_plugins.decoding.scheduled import Scheduled, Sequential
from cogvid_plugins.interpolation.sequential_overlap import SequentialOverlap
from cogvid_plugins.text_tokenizer.bpe import BytePairs

GRID = Grid(3, 2, 3)
N = GRID.frame_tokens
LAYERS = 2
SEQUENTIAL, BETWEEN = Local3D(Local3D.Config(extent=[2, 1, 2])), SwinAR(SwinAR.Config(window=[1, 2]))
GIVEN = (True, False, True)
DOUBLING = [
    Round((Window((0, 2, 4), GIVEN), Window((4, 6, 8), GIVEN)), 2.0),
    Round(tuple(Window((t, t + 1, t + 2), GIVEN) for t in (0, 2, 4, 6)), 4.0),
]
# The frames of each part of a clip by doubling.
PARTS = {"first frame": [0], "key frames": [4, 8], "round 1": [2, 6], "round 2": [1, 3, 5, 7]}
GUESSING = FixedPoint(FixedPoint.Config(window=4))


@pytest.fixture
def make(make_model: Any) -> Any:
    """Records a clip; of 9 frames by doubling, unless another plan is wanted."""
    tokenizer = BytePairs(BytePairs.Config(256))
    tokenizer.train([("a cube", 2.0)])
    text = CaptionEncoder(tokenizer, 20, 11)
    sizes = {"text_length": 20, "text_positions": 20, "vocabulary": text.vocabulary, "layers": LAYERS}

    def recorded(decoding: Decoding, config: GenerationConfig | None = None, **plan: Any) -> ClipPasses:
        config = config or GenerationConfig()
        generator = ClipGenerator(
            make_model(None, Grid(1, 2, 3), **sizes),
            make_model(SEQUENTIAL, GRID, seed=1, **sizes),
            make_model(BETWEEN, GRID, "interpolation", seed=2, **sizes),
            text,
            config,
            decoding,
            **(plan or {"places": [0, 4, 8], "plan": DOUBLING}),
        )
        given = torch.zeros(1, config.given, N, dtype=torch.long)
        clip = clip_passes(generator, "a cube", [2.0] * 20, 3, 1, given)
        assert generator.decoding is decoding
        return clip

    return recorded


def frames_of(slots: Tensor, clip: ClipPasses) -> set[int]:
    return {clip.timeline[frame] for frame in (slots // N).tolist()}


@pytest.mark.parametrize("decoding", [GUESSING, Scheduled(), Sequential()], ids=["fixed point", "scheduled", "one"])
def test_every_slot_of_every_part_is_final_once_and_not_computed_afterwards(make: Any, decoding: Decoding) -> None:
    clip = make(decoding, GenerationConfig(sequential=SamplingConfig(guidance=2.0)))
    assert (clip.timeline, clip.grid) == (tuple(range(9)), Grid(9, 2, 3))
    assert {part.name: part.kept for part in clip.parts} == {name: len(own) * N for name, own in PARTS.items()}
    finals = torch.cat([one.slots[one.final] for _, one in clip.passes])
    assert sorted(finals.tolist()) == list(range(9 * N))
    for number, (name, one) in enumerate(clip.passes):
        assert frames_of(one.slots, clip) <= set(PARTS[name])
        assert len(one.slots.unique()) == len(one.slots)
        finished = clip.finished.view(-1)[one.slots]
        assert torch.equal(finished == number, one.final)
        assert (finished >= number).all()
    assert int(clip.computed.sum()) == sum(part.computed for part in clip.parts)
    for name, own in PARTS.items():
        first, last = zip(*(clip.frame_passes(frame) for frame in own), strict=True)
        numbers = [number for number, (part, _) in enumerate(clip.passes) if part == name]
        assert (min(first), max(last)) == (numbers[0], numbers[-1])


def test_guesses_that_were_wrong_are_computed_again(make: Any) -> None:
    clip = make(GUESSING)
    assert clip.computed.min() == 1
    assert clip.computed.max() > 1
    assert all(part.computed > part.kept for part in clip.parts)
    assert any((pass_states(clip, range(i, i + 1)) == State.guessed).any() for i in range(len(clip.passes)))


def test_along_the_shortest_schedule_passes_are_its_steps(make: Any) -> None:
    clip = make(Scheduled())
    assert [len(part.passes) for part in clip.parts] == [part.steps for part in clip.parts]
    assert clip.steps == len(clip.passes)
    assert (clip.computed == 1).all()
    first, keys, *_ = (part.steps for part in clip.parts)
    assert torch.equal(clip.finished[0], torch.arange(N))
    # The first frame is known by then: nothing of the others waits for it.
    alone = decode_schedule(SEQUENTIAL, Grid(2, 2, 3), layers=LAYERS)
    assert torch.equal(clip.finished[[4, 8]], first + alone)
    between = decode_schedule(BETWEEN, GRID, "interpolation", layers=LAYERS)[1]
    assert torch.equal(clip.finished[[2, 6]], first + keys + between.expand(2, -1))
    for number in range(clip.steps):
        shown = pass_states(clip, range(number, number + 1))
        assert torch.equal(shown == State.running, clip.finished == number)
        assert torch.equal(shown == State.done, clip.finished < number)
        assert not (shown == State.guessed).any()


@pytest.mark.parametrize(
    ("config", "names", "given"),
    [
        (GenerationConfig(image_model_first=False), ["key frames", "round 1", "round 2"], []),
        (GenerationConfig(given=2), ["key frames", "round 1", "round 2"], [0, 4]),
        (GenerationConfig(given=3), ["round 1", "round 2"], [0, 4, 8]),
    ],
    ids=["no image model", "some given", "all given"],
)
def test_parts_that_are_not_made_are_not_there_and_given_frames_are(
    make: Any, config: GenerationConfig, names: list[str], given: list[int]
) -> None:
    clip = make(GUESSING, config)
    assert [part.name for part in clip.parts] == names
    for shown in (range(1), range(len(clip.passes))):
        found = pass_states(clip, shown) == State.given
        assert found.all(1).nonzero()[:, 0].tolist() == found.any(1).nonzero()[:, 0].tolist() == given
    assert [frame for frame in range(9) if clip.frame_passes(frame) is None] == given


def test_a_clip_that_goes_on_from_its_last_frames_has_a_round_for_each_window(make: Any) -> None:
    strategy = SequentialOverlap(SequentialOverlap.Config(overlap=1))
    clip = make(GUESSING, places=strategy.key_frame_places(3, 7), plan=strategy.plan(3, 7))
    assert [(part.name, part.kept) for part in clip.parts[1:]] == [
        ("key frames", 2 * N),
        ("round 1", 2 * N),
        ("round 2", 2 * N),
    ]
    keys, first, second = clip.finished.split([3, 2, 2])
    assert keys.max() < first.min()
    assert first.max() < second.min()


def colours(picture: Image.Image) -> dict[tuple[int, int, int], int]:
    return {colour: count for count, colour in picture.convert("RGB").getcolors() or []}  # type: ignore[misc]


def test_the_animation_has_a_picture_of_every_pass_in_its_colours(make: Any, tmp_path: Path) -> None:
    clip = make(GUESSING, GenerationConfig(given=1))
    assert len(clip.passes) <= PICTURES
    animate_passes(clip, "it", tmp_path / "it.gif")
    shades = {
        State.waiting: (0xE9, 0xEA, 0xEC),
        State.given: (0xC3, 0xD3, 0xEE),
        State.done: (0x2F, 0x6F, 0xDE),
        State.running: (0xE4, 0x75, 0x3B),
        State.guessed: (0xF5, 0xCD, 0x6B),
    }
    side, key = (120 // 3) ** 2, 10 * 10
    with Image.open(tmp_path / "it.gif") as animation:
        assert animation.n_frames == len(clip.passes)
        for number, (_, one) in enumerate(clip.passes):
            animation.seek(number)
            found = colours(animation)
            slots = {state: (found[colour] - key) / side for state, colour in shades.items()}
            final = int(one.final.sum())
            assert slots[State.running] == final
            assert slots[State.guessed] == len(one.slots) - final
            assert slots[State.given] == N
            assert slots[State.done] == ((clip.finished >= 0) & (clip.finished < number)).sum()
            assert sum(slots.values()) == clip.grid.tokens


def test_passes_that_share_a_picture_are_all_in_it(make: Any) -> None:
    clip = make(GUESSING)
    shown = range(1, 4)
    found, seen = pass_states(clip, shown), [one for _, one in clip.passes[1:4]]
    final = torch.cat([one.slots[one.final] for one in seen])
    computed = set(torch.cat([one.slots for one in seen]).tolist())
    assert (found == State.running).view(-1).nonzero()[:, 0].tolist() == sorted(final.tolist())
    assert set((found == State.guessed).view(-1).nonzero()[:, 0].tolist()) == computed - set(final.tolist())
