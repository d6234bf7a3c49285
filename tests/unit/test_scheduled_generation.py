"""The shortest schedule gives the tokens of one slot at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cogvid import AttentionBackend, Grid, create_component
from cogvid.attention.compact import layer_masks
from cogvid.attention.dense import masked_attention
from cogvid.config.schema import SamplingConfig
from cogvid.generation.choose import uniforms
from cogvid.generation.schedule import Along, last_seen, sequential_schedule, shortest_schedule
from cogvid.generation.tokens import generate_tokens
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Dependencies, Rows
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.context import FullSequence, text_attention
from cogvid.model.transformer import CogVideoTransformer, frame_inputs

MakeModel = Callable[..., CogVideoTransformer]
GRID = Grid(5, 3, 4)
TEXT, OFFSET = 4, 12
PLAIN, GUIDED = SamplingConfig(temperature=2.0), SamplingConfig(temperature=2.0, top_k=9, guidance=2.5)
SWIN = {"name": "swin_ar", "options": {"window": [2, 2]}}

BACKENDS: dict[str, AttentionBackend] = {
    "naive": create_component("attention", "naive"),
    "local3d": create_component("attention", "local3d", {"extent": [2, 2, 2]}),
    "local3d, bias": create_component("attention", "local3d", {"extent": [3, 1, 2], "bias": True}),
    "swin_ar": create_component("attention", "swin_ar", {"window": [2, 2]}),
    "swin_ar, bias": create_component("attention", "swin_ar", {"window": [3, 2], "bias": True}),
    "swin_ar, 2 frames, bias": create_component("attention", "swin_ar", {"window": [1, 3], "frames": 2, "bias": True}),
    **{name: create_component("attention", name, {"pattern": SWIN}) for name in ("triton", "flex", "auto")},
}


@pytest.fixture(scope="session", name="make_model")
def _make_model(make_model: MakeModel) -> MakeModel:
    """Models whose tokens depend on what their slots see: with vectors as at the start, which do not drown it."""

    def make(*arguments: object, dtype: torch.dtype = torch.float64, **options: object) -> CogVideoTransformer:
        model = make_model(*arguments, **options)
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, torch.nn.Linear) and module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        return model.to(dtype)

    return make


def conditions(batch: int, grid: Grid = GRID) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(2)
    lengths = torch.arange(batch) % TEXT + 1
    return {
        "text": torch.randint(0, 8, (batch, TEXT), generator=draw) + OFFSET,
        "text_mask": torch.arange(TEXT) >= TEXT - lengths[:, None],
        "codes": torch.randint(0, 11, (batch, grid.frames, grid.frame_tokens), generator=draw),
        "samples": torch.arange(batch) + 3,
        "frame_ids": torch.arange(grid.frames).expand(batch, -1) * 4,
    }


class Follow(Along):
    """Along a schedule that is said."""

    def __init__(self, said: Tensor | None) -> None:
        super().__init__()
        self.said = said

    def schedule(self, needs: Dependencies) -> Tensor:
        return super().schedule(needs) if self.said is None else self.said


def tokens(
    model: CogVideoTransformer,
    known: tuple[bool, ...],
    schedule: Tensor | Decoding | None,
    sampling: SamplingConfig = PLAIN,
    batch: int = 2,
    **options: object,
) -> Tensor:
    clips = conditions(batch, model.config.grid)
    clips["codes"][:, ~torch.tensor(known)] = 0
    without = torch.full((batch, TEXT), 3 + OFFSET), torch.ones(batch, TEXT, dtype=torch.bool)
    return generate_tokens(
        model,
        known=known,
        sampling=sampling,
        seed=4,
        begin_of_image=OFFSET - 1,
        decoding=schedule if isinstance(schedule, Decoding) else Follow(schedule),
        unconditional=without if sampling.guidance != 1 else None,
        **clips,
        **options,  # type: ignore[arg-type]
    )


def shortest(backend: AttentionBackend, grid: Grid, known: tuple[bool, ...], stage: Stage, layers: int) -> Tensor:
    masks = layer_masks(backend.pattern, grid, given_frames(stage, grid.frames), layers)
    return shortest_schedule(last_seen(masks, known), known)


def known_frames(stage: Stage, first: int) -> tuple[bool, ...]:
    if stage == "interpolation":
        return given_frames(stage, GRID.frames)
    return tuple(frame < first for frame in range(GRID.frames))


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("sampling", [PLAIN, GUIDED], ids=["plain", "guided"])
@pytest.mark.parametrize(("stage", "first"), [("sequential", 0), ("sequential", 2), ("interpolation", 0)])
@pytest.mark.parametrize("name", list(BACKENDS))
def test_the_shortest_schedule_gives_the_tokens_of_one_slot_at_a_time(
    make_model: MakeModel, name: str, stage: Stage, first: int, sampling: SamplingConfig, batch: int
) -> None:
    model, known = make_model(BACKENDS[name], GRID, stage), known_frames(stage, first)
    one_by_one = tokens(model, known, sequential_schedule(GRID, known), sampling, batch)
    assert torch.equal(tokens(model, known, None, sampling, batch), one_by_one)
    assert len(one_by_one[:, ~torch.tensor(known)].unique()) > 5
    steps = int(shortest(BACKENDS[name], GRID, known, stage, 2).max()) + 1
    # Where a slot needs all of the frames before, its frame can start with their last slots: one step for both.
    full = known.count(False) * (GRID.frame_tokens - 1) + 1
    assert steps == full if name == "naive" else steps < full


class Apart(Decoding):
    """Each sample of a batch by a schedule of its own, (B, F, N)."""

    def __init__(self, schedules: Tensor) -> None:
        super().__init__()
        self.schedules = schedules

    def start(self, clips: Clips) -> Decoder:
        return ApartDecoder(self.schedules.flatten(1))


class ApartDecoder(Decoder):
    def __init__(self, schedules: Tensor) -> None:
        steps = [(schedules == step).nonzero(as_tuple=True) for step in range(int(schedules.max()) + 1)]
        self.passes, self.width = iter([Rows(*step) for step in steps if len(step[0])]), 0

    def next_rows(self) -> Rows | None:
        rows = next(self.passes, None)
        self.width = 0 if rows is None else len(rows.slots)
        return rows

    def final(self) -> Tensor:
        return torch.ones(self.width, dtype=torch.bool)


@pytest.mark.parametrize("stage", ["sequential", "interpolation"])
@pytest.mark.parametrize("name", ["local3d, bias", "swin_ar"])
@pytest.mark.parametrize("sampling", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_samples_of_a_batch_may_be_at_different_schedules(
    make_model: MakeModel, name: str, stage: Stage, sampling: SamplingConfig
) -> None:
    model, known = make_model(BACKENDS[name], GRID, stage, layers=3), known_frames(stage, 1)
    fast, slow = shortest(BACKENDS[name], GRID, known, stage, 3), sequential_schedule(GRID, known)
    late = torch.where(fast >= 0, fast + 7, -1)
    mixed = tokens(model, known, Apart(torch.stack(2 * [slow, fast, late, fast])), sampling, batch=8)
    assert torch.equal(mixed, tokens(model, known, slow, sampling, batch=8))


def test_a_schedule_that_is_too_short_gives_other_tokens(make_model: MakeModel) -> None:
    model, known = make_model(BACKENDS["local3d"], GRID), known_frames("sequential", 0)
    # All frames at once: none sees what the frames before it hold.
    hasty = torch.arange(GRID.frame_tokens).expand(GRID.frames, -1)
    assert not torch.equal(tokens(model, known, hasty), tokens(model, known, None))


class BiasedText(FullSequence):
    """A sequence of one frame whose text keys score higher."""

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        t = self.text
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.text_mask)
        raster = torch.ones(q.shape[2] - t, q.shape[2] - t, dtype=torch.bool).tril().expand(len(q), 1, -1, -1)
        visible = torch.cat([self.text_mask[:, None, None].expand(-1, -1, len(raster[0, 0]), -1), raster], -1)
        scores = torch.zeros(q.shape[2], dtype=q.dtype).index_fill(0, torch.arange(t), 1.4)
        return torch.cat([text, masked_attention(q[:, :, t:], k, v, visible, scores)], dim=2)


def test_the_text_bias_is_added_to_the_scores_of_the_text(make_model: MakeModel) -> None:
    grid = Grid(1, 3, 4)
    model, clips = make_model(None, grid), conditions(3, grid)
    biased = tokens(model, (False,), None, SamplingConfig(temperature=0, text_bias=1.4), batch=3)
    inputs = torch.cat([clips["text"], frame_inputs(biased, OFFSET - 1)], dim=1)
    context = BiasedText(None, grid, (False,), clips["text_mask"])
    with torch.no_grad():
        hidden = model.run(inputs, torch.arange(grid.tokens), clips["text_mask"], context)
    assert torch.equal(model.project(hidden[:, TEXT:]).argmax(-1), biased[:, 0])
    assert not torch.equal(biased, tokens(model, (False,), None, SamplingConfig(temperature=0), batch=3))


@pytest.mark.slow
def test_compiled_steps_give_the_same_tokens(make_model: MakeModel) -> None:
    model, known = make_model(BACKENDS["local3d, bias"], Grid(3, 2, 3), layers=1), (True, False, False)
    assert torch.equal(tokens(model, known, None, compile=True), tokens(model, known, None))


def distance_from_a_tie(
    exact: CogVideoTransformer, one: Tensor, other: Tensor, steps: Tensor, uniform: Tensor, inputs: Tensor, text: Tensor
) -> float:
    """How near the random number is to what separates the first tokens at which two clips (F, N) differ.

    Args:
        exact: the model in float64, whose distribution it is.
        one, other: the clips.
        steps: the schedule; the first token is that of the earliest step.
        uniform: float64 (F, N).
        inputs, text: tokens of one clip as the model reads them (1, L), and the mask of its text.
    """
    differ = torch.where(one != other, steps, steps.max() + 1).flatten()
    slot = int(differ.argmin())
    with torch.no_grad():
        logits = exact.image_logits(inputs, text)[0, slot] / PLAIN.temperature
    low, high = sorted((int(one.flatten()[slot]), int(other.flatten()[slot])))
    return float((logits.softmax(-1).cumsum(-1)[low:high] - uniform.flatten()[slot]).abs().max())


def test_in_float32_clips_differ_only_by_rounding_ties(make_model: MakeModel) -> None:
    grid, batch, known = Grid(4, 4, 4), 512, (False,) * 4
    model = make_model(BACKENDS["local3d, bias"], grid, dtype=torch.float32)
    schedule = shortest(BACKENDS["local3d, bias"], grid, known, "sequential", 2)
    one_by_one = tokens(model, known, sequential_schedule(grid, known), batch=batch)
    together = tokens(model, known, schedule, batch=batch)
    clips = conditions(batch, grid)
    uniform = uniforms(
        4, clips["samples"][:, None, None], clips["frame_ids"][..., None], torch.arange(grid.frame_tokens)
    )
    differing = (one_by_one != together).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert len(differing) <= batch // 100
    exact = make_model(BACKENDS["local3d, bias"], grid)
    exact.load_state_dict(model.state_dict())
    for clip in differing:
        inputs = torch.cat([clips["text"], frame_inputs(one_by_one, OFFSET - 1)], dim=1)[clip : clip + 1]
        mask = clips["text_mask"][clip : clip + 1]
        gap = distance_from_a_tie(exact, one_by_one[clip], together[clip], schedule, uniform[clip], inputs, mask)
        assert gap < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_graphs_give_the_same_tokens(make_model: MakeModel, dtype: torch.dtype) -> None:
    model, known = make_model(BACKENDS["swin_ar"], GRID, dtype=dtype).cuda(), known_frames("sequential", 1)
    slow = sequential_schedule(GRID, known)
    assert torch.equal(tokens(model, known, slow, compile=True), tokens(model, known, slow))


def test_bfloat16_generates(make_model: MakeModel) -> None:
    model, known = make_model(BACKENDS["local3d, bias"], GRID, dtype=torch.bfloat16), known_frames("sequential", 1)
    codes = tokens(model, known, None)
    assert codes.dtype is torch.int64
    assert len(codes.unique()) > 5


def test_known_frames_that_see_others_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="frame 1 is known, but sees frame 0"):
        tokens(make_model(BACKENDS["naive"], GRID), (False, True, False, False, False), None)
