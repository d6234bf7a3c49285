"""`cogvid bench decode`: the shortest schedule against one slot at a time, and the cache against none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from cogvid.attention.backend import AttentionBackend
from cogvid.attention.compact import layer_masks
from cogvid.bench.cases import DTYPES
from cogvid.bench.concatenated import concatenated_seconds
from cogvid.config.schema import ComponentConfig, SamplingConfig
from cogvid.generation.packed import packed
from cogvid.generation.sampler import generate
from cogvid.generation.schedule import decode_schedule, sequential_schedule
from cogvid.grid import Grid
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.plugins import create_plugin_manager

Say = Callable[[str], None]
GUIDED = SamplingConfig(guidance=3.0)
# Longer sequences are measured once, and neither guided nor recomputed.
_SHORT = 5


@dataclass(frozen=True)
class Size:
    """A model's; T text slots, V image tokens."""

    name: str
    layers: int
    width: int
    heads: int
    text: int
    vocabulary: int


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 2, 32, 2, 8, 64),
        Size("quickstart", 4, 128, 4, 16, 512),
        Size("medium", 12, 512, 8, 64, 1024),
        Size("paper", 48, 3072, 48, 64, 20000),
    )
}


@dataclass(frozen=True)
class DecodeCase:
    """What is generated, by a model with random weights.

    Attributes:
        size: of the model.
        component: its attention backend.
        grid: of the clip.
        plugins: that the backend may come from, beside the installed ones.
    """

    size: Size
    component: ComponentConfig = field(hash=False)
    grid: Grid
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For tables."""
        options = "".join(f", {key} {value}" for key, value in self.component.options.items())
        grid = self.grid
        return f"{self.size.name}, {grid.frames}x{grid.height}x{grid.width} {self.component.name}{options}"

    def backend(self) -> AttentionBackend:
        """Its attention backend."""
        manager = create_plugin_manager(self.plugins)
        backend: AttentionBackend = manager.create(
            "attention", self.component.name, self.component.options, "attention"
        )
        return backend


@dataclass(frozen=True)
class DecodeSettings:
    """Of all cases: where and in what to run, compiled or not, samples of a batch, and rounds."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    batch: int = 1
    repeats: int = 3


def default_cases(device: str) -> list[DecodeCase]:
    """The patterns of the papers on their grid; on a GPU at the paper's size."""
    local, swin = ComponentConfig("local3d", {"extent": [3, 3, 3]}), ComponentConfig("swin_ar", {"window": [5, 5]})
    sizes = ["paper"] if device == "cuda" else ["quickstart", "medium"]
    short = [(ComponentConfig("naive"), 5), (local, 5), (swin, 5)]
    return [
        DecodeCase(SIZES[size], component, Grid(frames, 20, 20))
        for size in sizes
        for component, frames in [*short, (local, 33), (swin, 33)]
    ]


@dataclass
class DecodeResult:
    """Of one case. Seconds are those of a whole clip, for each round; tokens are those of the sequential schedule.

    Attributes:
        slots, steps: of the clip, and of its shortest schedule.
        sequential, scheduled, guided: seconds; guidance on the shortest schedule.
        frames: seconds of a token in each frame, one slot at a time.
        recomputed: seconds of a token, the sequence so far again for each; mean over the frames.
        concatenated: the same with a cache that grows by concatenation, in each frame; full attention alone.
        equal: share of the tokens of both schedules that are equal.
        read: bytes that a step of one slot has to read, of weights and of keys and values.
    """

    case: DecodeCase
    slots: int
    steps: int
    sequential: list[float] = field(default_factory=list)
    scheduled: list[float] = field(default_factory=list)
    guided: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    recomputed: float | None = None
    concatenated: list[float] = field(default_factory=list)
    equal: float = 1.0
    read: tuple[int, int] = (0, 0)

    @property
    def speed_up(self) -> float:
        """Of the shortest schedule, on the clock."""
        return statistics.median(self.sequential) / statistics.median(self.scheduled)

    @property
    def step_ratio(self) -> float:
        """Of the shortest schedule, in steps."""
        return self.slots / self.steps


def check(case: DecodeCase) -> None:
    """Raises AssertionError if the schedules of a case's backend do not give the same tokens on a small grid."""
    grid = Grid(min(case.grid.frames, 4), 6, 7)
    backend = case.backend()
    model = random_model(DecodeCase(SIZES["tiny"], case.component, grid, case.plugins), backend).double()
    known = (False,) * grid.frames
    schedules = sequential_schedule(grid, known), decode_schedule(backend, grid, layers=2)
    one_by_one, together = (run(model, schedule, SamplingConfig(), 2, False)[0] for schedule in schedules)
    assert torch.equal(one_by_one, together), f"{case.component.name}: the shortest schedule gives other tokens"


def run_case(case: DecodeCase, settings: DecodeSettings, say: Say) -> DecodeResult:
    """Check, then time one case.

    Args:
        case, settings: what to run.
        say: called with what is going on.
    """
    say(f"{case.name}: checking")
    check(case)
    device, dtype = torch.device(settings.device), DTYPES[settings.dtype]
    backend, grid = case.backend(), case.grid
    model = packed(random_model(case, backend).to(device, dtype))
    one_by_one = sequential_schedule(grid, (False,) * grid.frames)
    shortest = decode_schedule(backend, grid, layers=case.size.layers)
    result = DecodeResult(case, grid.tokens, int(shortest.max()) + 1, read=_read(case, backend, dtype))
    short = grid.frames <= _SHORT
    by_frame: list[list[float]] = []
    for number in range(settings.repeats if short else 1):
        ways = {"sequential": (one_by_one, SamplingConfig()), "scheduled": (shortest, SamplingConfig())}
        if short:
            ways["guided"] = shortest, GUIDED
        found = {}
        for name, (schedule, sampling) in ways.items():
            say(f"{case.name}: {name}, round {number + 1}")
            found[name], seconds = run(model, schedule, sampling, settings.batch, settings.compile)
            getattr(result, name).append(sum(seconds))
            if name == "sequential":
                by_frame.append([statistics.median(part.tolist()) for part in torch.tensor(seconds).chunk(grid.frames)])
        result.equal = float((found["sequential"] == found["scheduled"]).double().mean())
    result.frames = [statistics.median(each) for each in zip(*by_frame, strict=True)]
    if short:
        say(f"{case.name}: recomputing")
        result.recomputed = statistics.fmean(_recomputed(model, case, frame) for frame in range(grid.frames))
    if short and case.component.name == "naive":
        say(f"{case.name}: concatenating")
        result.concatenated = [concatenated_seconds(model, grid, frame) for frame in range(grid.frames)]
    return result


def random_model(case: DecodeCase, backend: AttentionBackend) -> CogVideoTransformer:
    """A model of the case's size, of 256 text tokens."""
    size = case.size
    config = TransformerConfig(
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        vocabulary=size.vocabulary + 1 + 256,
        image_vocabulary=size.vocabulary,
        text_length=size.text,
        text_positions=size.text,
        grid=case.grid,
    )
    torch.manual_seed(0)
    return CogVideoTransformer(config, backend).eval()


def run(
    model: CogVideoTransformer, schedule: Tensor, sampling: SamplingConfig, batch: int, compile: bool
) -> tuple[Tensor, list[float]]:
    """Generate clips.

    Returns:
        int64 (batch, F, N), and the seconds of each step; those of the first hold the text, too.
    """
    device, text = model.word_embeddings.weight.device, model.config.text_length
    frames, n = schedule.shape
    tokens = torch.arange(text).expand(batch, -1) % 256
    text_mask = tokens >= text // 4
    times: list[float] = []

    def tick(_: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter())

    tick(0)
    codes = generate(
        model,
        tokens,
        text_mask,
        torch.zeros(batch, frames, n, dtype=torch.long),
        (False,) * frames,
        sampling=sampling,
        seed=0,
        samples=torch.arange(batch),
        frame_ids=torch.arange(frames).expand(batch, -1),
        text_offset=model.config.image_vocabulary + 1,
        schedule=schedule,
        unconditional=(tokens, text_mask),
        compile=compile,
        on_step=tick,
    )
    return codes, [after - before for before, after in pairwise(times)]


@torch.inference_mode()
def _recomputed(model: CogVideoTransformer, case: DecodeCase, frame: int) -> float:
    """Seconds of a token in a frame, when all frames up to it are computed again for it."""
    length = case.size.text + (frame + 1) * case.grid.frame_tokens
    tokens = torch.zeros(1, length, dtype=torch.long, device=model.word_embeddings.weight.device)
    text_mask = torch.ones(1, case.size.text, device=tokens.device)
    times = []
    for _ in range(4):  # the first lays out the attention
        start = time.perf_counter()
        model.image_logits(tokens, text_mask)[:, -1].argmax().item()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _read(case: DecodeCase, backend: AttentionBackend, dtype: torch.dtype) -> tuple[int, int]:
    size, grid, bytes_each = case.size, case.grid, torch.finfo(dtype).bits // 8
    # Both channels' projections and the feed-forward, 16 squares of the width; and the logits.
    weights = 16 * size.layers * size.width**2 + size.vocabulary * size.width
    masks = layer_masks(backend, grid, (False,) * grid.frames, size.layers)
    plus = sum(mask.pairs / grid.tokens for mask in masks)
    base = size.layers * (grid.frame_tokens + 1) / 2
    keys = plus + base + 2 * size.layers * size.text
    return weights * bytes_each, round(2 * keys * size.width * bytes_each)


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes."""
    x = torch.zeros(1 << 27, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        y.copy_(x)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * x.numel() / min(times)


def summary(results: Sequence[DecodeResult]) -> list[dict[str, object]]:
    """The cases as plain data; seconds and bytes."""
    return [
        {
            "name": one.case.name,
            "size": vars(one.case.size),
            "grid": [one.case.grid.frames, one.case.grid.height, one.case.grid.width],
            "attention": vars(one.case.component),
            "slots": one.slots,
            "steps": one.steps,
            "step_ratio": one.step_ratio,
            "speed_up": one.speed_up,
            "share_of_step_ratio": one.speed_up / one.step_ratio,
            "equal_tokens": one.equal,
            "seconds": {"sequential": one.sequential, "scheduled": one.scheduled, "guided": one.guided},
            "guided_over_plain": _ratio(one.guided, one.scheduled),
            "s_per_token_by_frame": one.frames,
            "s_per_token_recomputed": one.recomputed,
            "recomputed_over_cached": one.recomputed and one.recomputed * one.slots / statistics.median(one.sequential),
            "s_per_token_concatenated_by_frame": one.concatenated,
            "concatenated_over_sequential_by_frame": [
                a / b for a, b in zip(one.concatenated, one.frames, strict=False)
            ],
            "bytes_read_per_step": {"weights": one.read[0], "keys_and_values": one.read[1]},
        }
        for one in results
    ]


def _ratio(above: Sequence[float], below: Sequence[float]) -> float | None:
    return statistics.median(above) / statistics.median(below) if above else None
