"""`cogvid bench decode`: decodings against each other, and the cache against none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cogvid.attention.compact import layer_masks
from cogvid.bench.cases import DTYPES
from cogvid.bench.concatenated import concatenated_error, concatenated_seconds
from cogvid.bench.decode_cases import (
    DECODINGS,
    SCHEDULED,
    SEQUENTIAL,
    SIZES,
    DecodeCase,
    DecodeSettings,
    random_model,
)
from cogvid.bench.measure import time_rounds
from cogvid.config.schema import SamplingConfig
from cogvid.errors import UserError
from cogvid.generation.packed import packed
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.attention import AttentionBackend, PatternRunner
from cogvid.interfaces.decoding import Decoding, Rows
from cogvid.interfaces.grid import Grid
from cogvid.model.transformer import CogVideoTransformer, frame_inputs

Say = Callable[[str], None]
GUIDED = SamplingConfig(guidance=3.0)
# Whose seconds are those of a token in each frame; all others' are those of the passes of a whole clip.
BY_FRAME = ("recomputed", "concatenated")
# Longer sequences, in frames, are neither guided nor recomputed, and measured once by models that are not small.
_SHORT = 5
_SMALL = ("tiny", "quickstart")


@dataclass
class DecodeResult:
    """Of one case. A token is one of every clip of the batch.

    Attributes:
        slots: of the clip.
        read: bytes that a pass of one slot has to read, of weights and of keys and values.
        rounds: seconds by way and round: of a token in each frame for `BY_FRAME`, else of each pass of a clip.
        computed: slots that a decoding computes for each that it keeps.
        equal: share of a decoding's tokens that are those of one slot a pass.
        approximate: the decodings that are not exact.
    """

    case: DecodeCase
    slots: int
    read: tuple[int, int] = (0, 0)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    computed: dict[str, float] = field(default_factory=dict)
    equal: dict[str, float] = field(default_factory=dict)
    approximate: tuple[str, ...] = ()

    @property
    def passes(self) -> dict[str, int]:
        """Of a clip, by decoding."""
        return {way: len(self.best(way)) for way in self.computed}

    def best(self, way: str) -> list[float]:
        """Seconds of each pass, or frame, in its fastest round; empty where a way was not measured."""
        return [min(each) for each in zip(*self.rounds.get(way, []), strict=True)]

    def per_token(self, way: str) -> float | None:
        """Seconds, mean over the clip."""
        best = self.best(way)
        return sum(best) / (len(best) if way in BY_FRAME else self.slots) if best else None

    def ratio(self, way: str, other: str) -> float | None:
        """Of the time of one way to that of another."""
        above, below = self.per_token(way), self.per_token(other)
        return above / below if above and below else None

    @property
    def frames(self) -> list[float]:
        """Seconds of a token in each frame, one slot at a time: the median, as the first step holds the text, too."""
        best, n = self.best("sequential"), self.case.grid.frame_tokens
        return [statistics.median(best[start : start + n]) for start in range(0, len(best), n)]

    @property
    def last_over_second_frame(self) -> float | None:
        """Of the time of a token; about 1 where a slot sees as much in all frames but the first."""
        return self.frames[-1] / self.frames[1] if len(self.frames) > 2 else None

    @property
    def concatenated_over_sequential(self) -> list[float]:
        """Of the time of a token in each frame; empty where it was not measured."""
        return [a / b for a, b in zip(self.best("concatenated"), self.frames, strict=False)]

    def over_reading(self, bandwidth: float) -> float | None:
        """Of the time of a pass of one slot to that of reading what it has to; bytes a second."""
        seconds = self.per_token(SEQUENTIAL)
        return seconds * bandwidth / sum(self.read) if seconds else None


def check(case: DecodeCase, decodings: Sequence[str] = DECODINGS) -> None:
    """Compare all exact ways on a small grid, in float64 with weights of order one.

    Raises:
        AssertionError: two do not give the same tokens, or logits.
    """
    grid = Grid(min(case.grid.frames, 4), 6, 7)
    backend = case.backend()
    model = random_model(DecodeCase(SIZES["tiny"], case.component, grid, case.plugins), backend).double()
    # Whatever reaches a logit is then far above rounding, and decides on tokens.
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    likeliest = SamplingConfig(temperature=0)
    codes = run(model, case.decoding(SEQUENTIAL), likeliest, 2, False).codes
    whole = _whole_logits(model, codes).argmax(-1).view_as(codes)
    _agree(torch.equal(codes, whole), "one slot at a time gives other tokens than the whole sequence")
    # Its text is that of the clip itself: guidance changes nothing.
    for name, decoding in ((name, case.decoding(name)) for name in decodings):
        for sampling in (likeliest, replace(likeliest, guidance=GUIDED.guidance)) if decoding.exact else ():
            same = torch.equal(codes, run(model, decoding, sampling, 2, False).codes)
            _agree(same, f"{name} gives other tokens than one slot a pass, guidance {sampling.guidance}")
    if case.component.name == "naive":
        error = concatenated_error(model, codes)
        _agree(error < 1e-9, f"the concatenated cache gives other logits, off by {error:.2g}")


def _agree(right: bool, otherwise: str) -> None:
    if not right:
        raise AssertionError(otherwise)


@torch.inference_mode()
def _whole_logits(model: CogVideoTransformer, codes: Tensor) -> Tensor:
    """Of finished clips, (B, F * N, V), by tiles of the pattern: a backend's own computation may lack float64."""
    plain = copy(model)
    plain.backend = PatternRunner(SimpleNamespace(pattern=model.backend))
    text, text_mask = _text(model, len(codes))
    begin = model.config.image_vocabulary
    return plain.image_logits(torch.cat([text, frame_inputs(codes, begin)], dim=1), text_mask)


def run_case(case: DecodeCase, settings: DecodeSettings, say: Say) -> DecodeResult:
    """Check, then time one case.

    Args:
        case, settings: what to run.
        say: called with what is going on.

    Raises:
        UserError: the check failed; nothing was timed.
    """
    say(f"{case.name}: checking")
    try:
        check(case, settings.decodings)
    except AssertionError as error:
        raise UserError(f"Not timed, because the check failed: {case.name}: {error}.") from error
    backend, grid, batch, dtype = case.backend(), case.grid, settings.batch, DTYPES[settings.dtype]
    model = packed(random_model(case, backend, settings.device).to(dtype), settings.compile)
    decodings = {name: case.decoding(name) for name in dict.fromkeys((SEQUENTIAL, *settings.decodings))}
    approximate = tuple(name for name, decoding in decodings.items() if not decoding.exact)
    result = DecodeResult(case, grid.tokens, _read(case, backend, dtype, batch), approximate=approximate)
    short, found = grid.frames <= _SHORT, {}

    def clip(way: str, decoding: str, sampling: SamplingConfig) -> list[float]:
        found[way] = run(model, decodings[decoding], sampling, batch, settings.compile)
        return found[way].seconds

    def by_frame(seconds: Callable[[CogVideoTransformer, int, int], float]) -> list[float]:
        return [seconds(model, batch, frame) for frame in range(grid.frames)]

    ways: dict[str, Callable[[], list[float]]] = {
        name: partial(clip, name, name, SamplingConfig()) for name in decodings
    }
    if short:
        if SCHEDULED in decodings:
            ways["guided"] = lambda: clip("guided", SCHEDULED, GUIDED)
        ways["recomputed"] = lambda: by_frame(_recomputed)
    if short and case.component.name == "naive":
        ways["concatenated"] = lambda: by_frame(concatenated_seconds)
    rounds = settings.repeats
    if not short and case.size.name not in _SMALL:
        rounds = min(rounds, 2 if settings.compile else 1)  # the first round of what is compiled compiles it
    for number in range(rounds):
        for way, seconds in ways.items():
            say(f"{case.name}: {way}, round {number + 1}")
            result.rounds.setdefault(way, []).append(seconds())
    for name in decodings:
        result.computed[name] = found[name].computed / (batch * grid.tokens)
        result.equal[name] = float((found[SEQUENTIAL].codes == found[name].codes).double().mean())
    return result


class Generated(NamedTuple):
    """Clips, int64 (batch, F, N); the seconds of each pass, in the first those of the text, too; slots computed."""

    codes: Tensor
    seconds: list[float]
    computed: int


def run(
    model: CogVideoTransformer, decoding: Decoding, sampling: SamplingConfig, batch: int, compile: bool
) -> Generated:
    """Generate clips."""
    device, grid = model.word_embeddings.weight.device, model.config.grid
    frames, n, computed = grid.frames, grid.frame_tokens, 0
    tokens, text_mask = _text(model, batch)
    times: list[float] = []

    def tick() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())

    def on_pass(rows: Rows, _: Tensor) -> None:
        nonlocal computed
        computed += len(rows.slots)
        tick()

    tick()
    codes = generate_tokens(
        model,
        tokens,
        text_mask,
        torch.zeros(batch, frames, n, dtype=torch.long),
        (False,) * frames,
        sampling=sampling,
        seed=0,
        samples=torch.arange(batch),
        frame_ids=torch.arange(frames).expand(batch, -1),
        begin_of_image=model.config.image_vocabulary,
        decoding=decoding,
        unconditional=(tokens, text_mask),
        compile=compile,
        on_pass=on_pass,
    )
    return Generated(codes, [after - before for before, after in pairwise(times)], computed)


def _text(model: CogVideoTransformer, batch: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask, (B, T) each; a quarter is padding."""
    slots = torch.arange(model.config.text_length).expand(batch, -1)
    return slots % 256 + model.config.image_vocabulary + 1, slots >= model.config.text_length // 4


@torch.inference_mode()
def _recomputed(model: CogVideoTransformer, batch: int, frame: int) -> float:
    """Seconds of a token in a frame, when all frames up to it are computed again for it."""
    config = model.config
    length = config.text_length + (frame + 1) * config.grid.frame_tokens
    tokens = torch.zeros(batch, length, dtype=torch.long, device=model.word_embeddings.weight.device)
    text_mask = torch.ones(batch, config.text_length, device=tokens.device)

    def again() -> Tensor:
        return model.project(model.hidden(tokens, text_mask)[:, -1]).argmax(-1)

    # The call that is not timed lays out the attention.
    return time_rounds({"again": again}, 1, 0.0, tokens.device)["again"].median


def _read(case: DecodeCase, backend: AttentionBackend, dtype: torch.dtype, batch: int) -> tuple[int, int]:
    size, grid, bytes_each = case.size, case.grid, torch.finfo(dtype).bits // 8
    # Both channels' projections and the feed-forward, 16 squares of the width; and the logits.
    weights = 16 * size.layers * size.width**2 + size.vocabulary * size.width
    masks = layer_masks(backend.pattern, grid, (False,) * grid.frames, size.layers)
    plus = sum(mask.pairs / grid.tokens for mask in masks)
    base = size.layers * (grid.frame_tokens + 1) / 2
    keys = plus + base + 2 * size.layers * size.text
    return weights * bytes_each, round(2 * batch * keys * size.width * bytes_each)


def read_bandwidth(device: str) -> float:
    """Bytes a second that a sum over 200 MB reads."""
    x = torch.zeros(50_000_000, device=device)
    return x.nbytes / time_rounds({"sum": x.sum}, 8, 0.0, x.device)["sum"].min
