"""`cogvid bench decode --run`: tokens that differ are shown as ties, or nothing is timed."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvid import Grid, UserError
from cogvid.bench.decode_run import TIE, RunBench
from cogvid.bench.decode_run_report import lines, whole_clips
from cogvid.config.schema import GenerationConfig, SamplingConfig
from cogvid.data.text import CaptionEncoder
from cogvid.generation.choose import guided, uniforms
from cogvid.generation.clips import ClipGenerator, Part
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Rows
from cogvid_plugins.decoding.fixed_point import FixedPoint
from cogvid_plugins.decoding.scheduled import Sequential
from cogvid_plugins.text_tokenizer.bpe import BytePairs

SEED, TEXT = 3, 20
CAPTIONS = ["a red ball", "a cube"]
GUIDED = SamplingConfig(guidance=2.5)
LIKELIEST = SamplingConfig(temperature=0)

Bench = Callable[..., RunBench]


class Changed(Decoder):
    """One slot a pass, but for a clip's first token."""

    def __init__(self, clips: Clips, clip: int, token: int) -> None:
        self.clips, self.clip, self.token, self.inner = clips, clip, token, Sequential().start(clips)

    def next_rows(self) -> Rows | None:
        return self.inner.next_rows()

    def final(self) -> Tensor:
        if self.token >= 0 and self.clip < len(self.clips.tape):
            self.clips.tape[self.clip, 0, 1] = self.token
            self.token = -1
        return self.inner.final()


class Changing(Decoding):
    """Makes a clip's first token another."""

    clip, token = 0, 0

    def start(self, clips: Clips) -> Decoder:
        return Changed(clips, self.clip, self.token)


def changing(clip: int, token: int) -> Decoding:
    decoding = Changing()
    decoding.clip, decoding.token = clip, token
    return decoding


@pytest.fixture
def bench(make_model: Any) -> Bench:
    """First frames of two clips; the first's number is that of which the first token is nearest to a tie."""
    tokenizer = BytePairs(BytePairs.Config(256))
    tokenizer.train((caption, 2.0) for caption in CAPTIONS)
    text = CaptionEncoder(tokenizer, TEXT, 11)
    sizes = {"text_length": TEXT, "text_positions": TEXT, "vocabulary": text.vocabulary}

    def make(sampling: SamplingConfig, twins: bool = False, dtype: torch.dtype = torch.float32) -> RunBench:
        model, parts = make_model(None, Grid(1, 3, 4), dtype=dtype, **sizes), []
        if twins:  # all codes are equally likely
            with torch.no_grad():
                model.word_embeddings.weight[:11] = model.word_embeddings.weight[0]
        config = GenerationConfig(first_frame=sampling)
        generator = ClipGenerator(model, None, None, text, config, Sequential(), places=[0])

        def record(samples: Tensor) -> Part:
            list(generator.pieces(CAPTIONS, [[0.0], [0.0]], samples, SEED, on_part=parts.append))
            part: Part = parts.pop()
            return part

        bounds = cumulative(record(torch.arange(2)), 0)
        numbers = torch.arange(1, 100_000)
        first = uniforms(SEED, numbers, torch.tensor(0), torch.tensor(0))
        nearest = int(numbers[(first[:, None] - bounds[:-1]).abs().amin(1).argmin()])
        parts.append(record(torch.tensor([nearest, 0])))
        exact = (lambda own: deepcopy(own).double()) if dtype is torch.float32 else None
        return RunBench(generator, parts, 2, SEED, {"sequential": Sequential()}, exact)

    return make


def cumulative(part: Part, clip: int) -> Tensor:
    """Of a clip's first token."""
    model = deepcopy(part.model).double()
    with torch.inference_mode():
        logits, *without = (
            model.image_logits(torch.cat([text[0], part.codes[:, 0] * 0 + 11], 1), text[1])[clip, 0]
            for text in (part.text, part.without)
            if text is not None
        )
    return (guided(logits, without[0], part.sampling.guidance) if without else logits).softmax(-1).cumsum(-1)


def first_token(bench: RunBench, clip: int) -> tuple[float, int]:
    """Its random number, and what is drawn with it."""
    part = bench.parts[0]
    uniform = float(uniforms(SEED, part.samples[clip], torch.tensor(0), torch.tensor(0)))
    return uniform, int((cumulative(part, clip) <= uniform).sum())


@pytest.mark.parametrize("sampling", [SamplingConfig(), GUIDED], ids=["plain", "guided"])
def test_a_decoding_that_parts_at_a_tie_is_listed_and_timed(bench: Bench, sampling: SamplingConfig) -> None:
    case = bench(sampling)
    uniform, drawn = first_token(case, 0)
    below, above = (abs(float(cumulative(case.parts[0], 0)[k]) - uniform) for k in (drawn - 1, drawn))
    other, gap = (drawn - 1, below) if below < above else (drawn + 1, above)
    case.decodings = {"fixed_point": FixedPoint(), "tied": changing(0, other)}
    exact, tied = case.measure([2], 2, lambda _: None)
    assert (exact.ties, exact.equal) == ([], 1)
    assert tied.ties is not None
    assert len(tied.ties) == 1
    assert gap / 2 <= tied.ties[0] <= max(gap * 10, 1e-9) < TIE
    assert 0.5 <= tied.equal < 1
    assert len(exact.seconds) == len(tied.seconds) == 2
    assert [line.split("equal, ")[1] for line in lines([exact, tied])[:2]] == [
        "0 clips have a rounding tie",
        "1 clips have a rounding tie",
    ]


def test_the_likeliest_tokens_tie_where_they_are_as_likely(bench: Bench) -> None:
    case = bench(LIKELIEST, twins=True)
    case.decodings = {"tied": changing(1, 7)}
    (tied,) = case.measure([2], 1, lambda _: None)
    assert tied.ties == [1e-9]


@pytest.mark.parametrize("sampling", [SamplingConfig(), GUIDED, LIKELIEST], ids=["plain", "guided", "likeliest"])
def test_a_decoding_with_other_tokens_is_refused_before_any_is_timed(bench: Bench, sampling: SamplingConfig) -> None:
    case, said = bench(sampling), list[str]()
    uniform, drawn = first_token(case, 1)
    other = 0 if uniform > 0.5 else 10
    assert other != drawn
    case.decodings = {"sequential": Sequential(), "wrong": changing(1, other)}
    with pytest.raises(UserError, match=r"^Not timed, because the check failed: first frame: wrong gives other tokens"):
        case.measure([1, 2], 1, said.append)  # of one clip at a time, it has nothing to change
    assert said == ["first frame, batch 1: checking", "first frame, batch 2: checking"]


def test_in_half_precision_equal_tokens_are_counted_and_not_judged(bench: Bench) -> None:
    case = bench(SamplingConfig(), dtype=torch.bfloat16)
    assert case.dtype == "bfloat16"
    case.decodings = {"wrong": changing(1, 10 if first_token(case, 1)[1] < 5 else 0)}
    (wrong,) = found = case.measure([2], 1, lambda _: None)
    assert wrong.ties is None
    assert 0.5 <= wrong.equal < 1
    assert wrong.record()["distances_from_ties"] is None
    assert whole_clips(found)[0]["ties"] is None
    assert all(line.endswith("of the tokens equal") for line in lines(found))
