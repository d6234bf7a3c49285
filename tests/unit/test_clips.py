"""Whole clips: key frames and rounds, in pieces, in bounded memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cogvid import Grid, UserError
from cogvid.config.schema import GenerationConfig, SamplingConfig
from cogvid.data.text import CaptionEncoder
from cogvid.generation import clips as clips_module
from cogvid.generation.clips import ClipGenerator, Part
from cogvid.interfaces.interpolation import Round, Window, check_plan
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.swin_ar import SwinAR
from cogvid_plugins.decoding.fixed_point import FixedPoint
from cogvid_plugins.interpolation.sequential_overlap import SequentialOverlap
from cogvid_plugins.text_tokenizer.bpe import BytePairs

GRID = Grid(3, 3, 4)
N = GRID.frame_tokens
TEXT = 20
CAPTIONS = ["a red ball", "a cube", "two cubes"]
# Of the key frames, and of as many rounds as any plan here has.
SECONDS = [[seconds, seconds / 2, *[seconds / 4] * 40] for seconds in (2.0, 4.0, 1.5)]
SAMPLES = torch.tensor([4, 9, 2])
GIVEN = (True, False, True)
# 3 key frames, then 5 and 9 frames.
DOUBLING = [
    Round((Window((0, 2, 4), GIVEN), Window((4, 6, 8), GIVEN)), 2.0),
    Round(tuple(Window((t, t + 1, t + 2), GIVEN) for t in (0, 2, 4, 6)), 4.0),
]

# 3 key frames, 2 more behind them, then those between.
BOTH = [
    Round((Window((4, 6, 8), (True, False, False)),), 1.0, "sequential"),
    Round(tuple(Window((t, t + 1, t + 2), GIVEN) for t in (0, 2, 4, 6)), 2.0),
]


@pytest.fixture
def make(make_model: Any) -> Any:
    """Builds generators of 9 frames by doubling, unless other places and rounds are wanted."""
    tokenizer = BytePairs(BytePairs.Config(256))
    tokenizer.train((caption, 2.0) for caption in CAPTIONS)
    text = CaptionEncoder(tokenizer, TEXT, 11)
    sizes = {"text_length": TEXT, "text_positions": TEXT, "vocabulary": text.vocabulary}

    def generator(
        config: GenerationConfig | None = None,
        *,
        models: int = 3,
        sequentially: bool = True,
        clusters: Tensor | None = None,
        **plan: Any,
    ) -> ClipGenerator:
        chosen = [
            make_model(None, Grid(1, GRID.height, GRID.width), **sizes),
            make_model(Local3D(Local3D.Config(extent=[2, 2, 3], bias=True)), GRID, seed=1, **sizes),
            make_model(SwinAR(SwinAR.Config(window=[2, 3])), GRID, "interpolation", seed=2, **sizes),
        ]
        image, sequential, between = [*chosen[:models], None, None][:3]
        sequential = sequential if sequentially else None
        config = config or GenerationConfig(sequential=SamplingConfig(temperature=0.9, guidance=2.5))
        plan = plan or {"places": [0, 4, 8], "plan": DOUBLING}
        return ClipGenerator(image, sequential, between, text, config, FixedPoint(), clusters=clusters, **plan)

    return generator


def overlap(frames: int, target: int, step: int = 1) -> dict[str, Any]:
    strategy = SequentialOverlap(SequentialOverlap.Config(overlap=step))
    return {"places": strategy.key_frame_places(frames, target), "plan": strategy.plan(frames, target)}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each call of `generate_tokens` got and gave."""
    made: list[dict[str, Any]] = []
    original = clips_module.generate_tokens

    def spy(model: Any, text: Tensor, mask: Tensor, codes: Tensor, known: tuple[bool, ...], **more: Any) -> Tensor:
        filled = original(model, text, mask, codes, known, **more)
        made.append({"model": model, "codes": codes.clone(), "known": known, "filled": filled, **more})
        return filled

    monkeypatch.setattr(clips_module, "generate_tokens", spy)
    return made


@pytest.mark.parametrize(
    "plan",
    [{}, overlap(3, 8), overlap(3, 7, 2), {"places": [0, 2, 4], "plan": BOTH}],
    ids=["doubling", "overlap 1", "overlap 2", "both stages"],
)
def test_clips_are_the_same_for_any_batch_size_and_as_their_pieces(make: Any, plan: dict[str, Any]) -> None:
    clips = []
    for batch_size in (1, 2, 3):
        generator = make(GenerationConfig(batch_size=batch_size), **plan)
        clips.append(generator.clips(CAPTIONS, SECONDS, SAMPLES, seed=1))
        assert generator.tokens == clips[-1].numel()
    whole = torch.cat([*make(**plan, config=GenerationConfig()).pieces(CAPTIONS, SECONDS, SAMPLES, 1)], dim=1)
    assert all(torch.equal(some, whole) for some in clips)
    assert whole.shape == (3, len(generator.timeline), N)
    assert all(len(frame.unique()) > 1 for frame in whole[0])


def test_progress_counts_every_token_of_the_clips_once(make: Any) -> None:
    steps: list[int] = []
    generator = make()
    generator.clips(CAPTIONS, SECONDS, SAMPLES, seed=1, on_step=steps.append)
    assert sum(steps) == generator.tokens == 3 * generator.clip_tokens == 3 * 9 * N
    assert min(steps) > 0


def test_parts_say_what_of_the_clips_they_are_before_they_are_made(make: Any, calls: list[dict[str, Any]]) -> None:
    parts: list[tuple[int, Part]] = []
    list(make().pieces(CAPTIONS, SECONDS, SAMPLES, seed=1, on_part=lambda part: parts.append((len(calls), part))))
    assert [(before, part.name) for before, part in parts] == [
        *((0, "first frame"), (1, "key frames"), (2, "round 1"), (3, "round 2")),
    ]
    for (_, part), call in zip(parts, calls, strict=True):
        assert (part.model, part.known, part.sampling) == (call["model"], call["known"], call["sampling"])
        assert all(torch.equal(getattr(part, name), call[name]) for name in ("samples", "frame_ids"))
        assert torch.equal(part.codes[:, torch.tensor(part.known)], call["codes"][:, torch.tensor(part.known)])
        assert (part.without is None) == (part.sampling.guidance == 1)
        assert len(part.text[0]) == len(part.codes)


def test_all_windows_of_a_round_of_all_clips_run_in_one_call(make: Any, calls: list[dict[str, Any]]) -> None:
    make().clips(CAPTIONS, SECONDS, SAMPLES, seed=1)
    first, keys, *rounds = calls
    assert (len(first["codes"]), len(keys["codes"])) == (3, 3)
    assert [len(call["codes"]) for call in rounds] == [3 * 2, 3 * 4]
    assert rounds[0]["frame_ids"].tolist() == [[0, 2, 4], [4, 6, 8]] * 3
    assert rounds[0]["samples"].tolist() == [4, 4, 9, 9, 2, 2]


def test_rounds_keep_the_frames_they_are_given(make: Any, calls: list[dict[str, Any]]) -> None:
    clip = make().clips(CAPTIONS, SECONDS, SAMPLES, seed=1)
    assert torch.equal(clip[:, [0, 4, 8]], calls[1]["filled"])
    for call in calls[2:]:
        windows = call["frame_ids"].unflatten(0, (3, -1))[0]
        assert torch.equal(call["filled"].unflatten(0, (3, -1)), clip[:, windows])


@pytest.mark.parametrize("seconds", [[4.0, 2.0, 1.0], [4.0, 3.0, 0.5]], ids=str)
def test_every_round_is_told_its_own_duration(make: Any, monkeypatch: pytest.MonkeyPatch, seconds: list[float]) -> None:
    generator, texts = make(GenerationConfig()), []
    words = generator.text.tokenizer
    monkeypatch.setattr(words, "encode", lambda text: texts.append(text) or BytePairs.encode(words, text))
    generator.clips(["a cube"], [seconds], SAMPLES[:1], seed=1)
    keys, first, second = (f"{length:g} s: a cube" for length in seconds)
    assert texts == ["0 s: a cube", keys, *[first] * 2, *[second] * 4]


@pytest.mark.parametrize("step", [1, 2])
def test_overlapping_windows_go_on_from_the_last_frames_made(make: Any, calls: list[dict[str, Any]], step: int) -> None:
    generator = make(**overlap(3, 8, step))
    clip = generator.clips(CAPTIONS, SECONDS, SAMPLES, seed=1)
    windows = calls[2:]
    assert [call["known"] for call in windows[:-1]] == [(True,) * step + (False,) * (3 - step)] * (len(windows) - 1)
    for call in windows:
        assert call["model"] is generator.models["sequential"]
        given = sum(call["known"])
        frames = call["frame_ids"][0]
        assert torch.equal(call["codes"][:, :given], clip[:, frames[:given]])
        assert torch.equal(call["filled"], clip[:, frames])
    assert windows[-1]["frame_ids"][0].tolist() == [5, 6, 7]


def test_the_random_numbers_of_a_frame_follow_from_its_number_on_the_final_timeline(make: Any) -> None:
    short, long = (make(**overlap(3, target)).clips(CAPTIONS, SECONDS, SAMPLES, seed=1) for target in (5, 9))
    assert torch.equal(short, long[:, :5])


def test_pieces_come_as_soon_as_they_are_made(make: Any, calls: list[dict[str, Any]]) -> None:
    seen = [(len(calls), piece.shape[1]) for piece in make(**overlap(3, 9)).pieces(CAPTIONS, SECONDS, SAMPLES, 1)]
    assert seen == [(2, 3), (3, 2), (4, 2), (5, 2)]


@pytest.mark.parametrize("step", [1, 2])
def test_a_long_clip_keeps_a_window_of_frames_at_most_two(make: Any, step: int) -> None:
    generator = make(GenerationConfig(), **overlap(3, 40, step))
    frames = sum(piece.shape[1] for piece in generator.pieces(CAPTIONS[:1], SECONDS[:1], SAMPLES[:1], 1))
    assert frames == 40
    assert generator.most_held <= 2 * 3


def test_without_the_image_model_first_the_sequential_stage_makes_every_key_frame(
    make: Any, calls: list[dict[str, Any]]
) -> None:
    config = GenerationConfig(image_model_first=False)
    generator = make(config, models=2, places=[0, 4, 8])
    generator.clips(CAPTIONS, SECONDS, SAMPLES, seed=1)
    (call,) = calls
    assert call["model"] is generator.models["sequential"]
    assert call["known"] == (False, False, False)
    assert call["frame_ids"].tolist() == [[0, 4, 8]] * 3


def given_tokens(number: int) -> Tensor:
    """The first key frames of the clips, as if they were real ones."""
    return torch.randint(11, (3, number, N), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("image_model_first", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_given_key_frames_come_out_as_they_are_and_the_others_go_on_from_them(
    make: Any, calls: list[dict[str, Any]], number: int, image_model_first: bool
) -> None:
    given, places = given_tokens(number), [0, 4][:number]
    config = GenerationConfig(given=number, image_model_first=image_model_first, batch_size=2)
    generator = make(config)
    clips = generator.clips(CAPTIONS, SECONDS, SAMPLES, 1, given=given)
    assert torch.equal(clips[:, places], given)
    # The first call is the key frames': the image model makes none.
    assert calls[0]["model"] is generator.models["sequential"]
    assert all(call["model"] is not generator.image_model for call in calls)
    assert calls[0]["known"] == (True,) * number + (False,) * (3 - number)
    other = generator.clips(CAPTIONS, SECONDS, SAMPLES, 1, given=(given + 1) % 11)
    later = [frame for frame in range(9) if frame not in places]
    assert not torch.equal(other[:, later], clips[:, later])


def test_tokens_of_given_frames_are_not_counted_as_generated(make: Any) -> None:
    steps: list[int] = []
    generator = make(GenerationConfig(given=2))
    generator.clips(CAPTIONS, SECONDS, SAMPLES, 1, steps.append, given_tokens(2))
    assert sum(steps) == generator.tokens == 3 * generator.clip_tokens == 3 * 7 * N


def test_without_a_sequential_model_the_image_model_makes_the_first_frame_though_it_is_given(make: Any) -> None:
    alone = make(GenerationConfig(given=2), models=1)
    frames = alone.clips(CAPTIONS, SECONDS, SAMPLES, 1, given=given_tokens(2))
    assert torch.equal(frames, make(GenerationConfig(), models=1).clips(CAPTIONS, SECONDS, SAMPLES, 1))


@pytest.mark.parametrize("sequentially", [True, False])
def test_where_all_key_frames_are_given_the_interpolation_model_makes_every_other_frame(
    make: Any, calls: list[dict[str, Any]], sequentially: bool
) -> None:
    given = given_tokens(3)
    generator = make(GenerationConfig(given=3), sequentially=sequentially)
    clips = generator.clips(CAPTIONS, SECONDS, SAMPLES, 1, given=given)
    assert torch.equal(clips[:, [0, 4, 8]], given)
    assert clips.shape == (3, 9, N)
    assert [call["model"] for call in calls] == [generator.models["interpolation"]] * 2
    assert generator.tokens == 3 * generator.clip_tokens == 3 * 6 * N


@pytest.mark.parametrize("given", [None, given_tokens(1)], ids=["none", "too few"])
def test_too_few_given_frames_are_a_mistake(make: Any, given: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"generation\.given is 2"):
        make(GenerationConfig(given=2)).clips(CAPTIONS, SECONDS, SAMPLES, 1, given=given)


@pytest.mark.parametrize(("models", "timeline"), [(1, [0]), (2, [0, 4, 8]), (3, list(range(9)))])
def test_clips_reach_as_far_as_there_are_models(make: Any, models: int, timeline: list[int]) -> None:
    generator = make(models=models)
    assert generator.timeline == timeline
    assert generator.clips(CAPTIONS, SECONDS, SAMPLES, seed=1).shape == (3, len(timeline), N)


def test_sampling_by_clusters_without_clusters_names_the_key(make: Any) -> None:
    for key in ("first_frame", "sequential", "interpolation"):
        config = GenerationConfig(**{key: SamplingConfig(clusters=True)})
        with pytest.raises(UserError, match=rf"generation\.{key}\.clusters: .* no clusters"):
            make(config)
        make(config, clusters=torch.arange(11) // 4)
    make(GenerationConfig(image_model_first=False, first_frame=SamplingConfig(clusters=True)))
    make(GenerationConfig(given=1, first_frame=SamplingConfig(clusters=True)))
    make(GenerationConfig(interpolation=SamplingConfig(clusters=True)), **overlap(3, 5))


def test_clusters_and_compilation_reach_the_sampler(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[Any, Any]] = []

    def fake(model: Any, text: Tensor, mask: Tensor, codes: Tensor, known: Any, **more: Any) -> Tensor:
        got.append((more["clusters"], more["compile"]))
        return codes

    monkeypatch.setattr(clips_module, "generate_tokens", fake)
    clusters = torch.arange(11) // 4
    make(GenerationConfig(compile=True), clusters=clusters).clips(CAPTIONS, SECONDS, SAMPLES, seed=1)
    assert len(got) == 4
    assert all(given is clusters and compiled for given, compiled in got)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([Round((Window((0, 2, 4), (True, True, False)),), 2.0)], "interpolation model is not trained for"),
        ([Round((Window((0, 2, 4), GIVEN),), 0.0)], "rate_factor of 0.0"),
        ([Round((Window((2, 3), (True, False)),), 1.0, "sequential")], "sequential model is not trained for"),
        ([Round((Window((2, 3, 4), (True, False, True)),), 1.0, "sequential")], "sequential model is not trained for"),
        ([Round((Window((3, 4, 5), (True, False, False)),), 1.0, "sequential")], "frame 3 before it is made"),
        ([Round((Window((1, 2, 3), (True, False, False)),), 1.0, "sequential")], "makes a frame twice"),
        (
            [
                Round((Window((2, 3, 4), (True, False, False)),), 1.0, "sequential"),
                Round(
                    (Window((4, 5, 6), (True, False, False)), Window((3, 4, 7), (True, True, False))), 1.0, "sequential"
                ),
            ],
            "different frames given",
        ),
        ([Round((Window((2, 3, 4), (True, False, False)),), 1.0, "sequential")], "makes 5 frames where 6 are wanted"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(plan: list[Round], words: str) -> None:
    with pytest.raises(UserError, match=f"mine .*{words}"):
        check_plan("mine", [0, 1, 2], plan, 6)
