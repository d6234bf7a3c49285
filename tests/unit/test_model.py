"""The transformer: text, padding, the gate, the frozen image model, rotary positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cogvid import Grid, Position
from cogvid.config.schema import Base, Gate, InterpolationStageConfig, PlusInit, Positions, StageConfig
from cogvid.interfaces.mask import Stage, given_frames
from cogvid.model.rotary import rotate, rotation
from cogvid.model.transformer import CogVideoTransformer, frame_inputs
from cogvid.training.next_token import TransformerModule
from cogvid.training.optimizer import build_optimizer
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive

MakeModel = Callable[..., CogVideoTransformer]

GRID = Grid(3, 2, 3)
TEXT_OFFSET, BEGIN = 12, 11
both_stages = pytest.mark.parametrize("stage", ["sequential", "interpolation"])
both_positions = pytest.mark.parametrize("positions", list(Positions), ids=lambda p: p.value)


def random_tokens(seed: int, *shape: int, first: int = 0, count: int = 11) -> Tensor:
    return torch.randint(first, first + count, shape, generator=torch.Generator().manual_seed(seed))


def frame_logits(model: CogVideoTransformer, text: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
    with torch.no_grad():
        return model(torch.cat([text, frames], 1), text_mask=mask)[:, model.config.text_length :]


@both_stages
@both_positions
def test_padding_on_the_left_changes_no_logit(make_model: MakeModel, stage: Stage, positions: Positions) -> None:
    text, frames = random_tokens(0, 2, 4, first=TEXT_OFFSET, count=8), random_tokens(1, 2, GRID.tokens)
    options = {"stage": stage, "positions": positions}
    short = frame_logits(make_model(Naive(), **options), text, torch.ones(2, 4), frames)
    padding = random_tokens(2, 2, 5)
    padded_mask = torch.tensor([[0] * 5 + [1] * 4] * 2)
    longer = make_model(Naive(), text_length=9, **options)
    long = frame_logits(longer, torch.cat([padding, text], 1), padded_mask, frames)
    torch.testing.assert_close(long, short, rtol=1e-10, atol=1e-10)


def test_a_token_under_the_padding_changes_no_frame_logit(make_model: MakeModel) -> None:
    model, frames = make_model(Naive()), random_tokens(1, 1, GRID.tokens)
    mask = torch.tensor([[0, 1, 1, 1]])
    one, other = (frame_logits(model, torch.tensor([[p, 13, 14, 15]]), mask, frames) for p in (0, 17))
    assert torch.equal(one, other)


def test_every_text_token_changes_every_frame_logit(make_model: MakeModel) -> None:
    model, frames = make_model(Naive()), random_tokens(1, 1, GRID.tokens)
    text, mask = torch.tensor([[12, 13, 14, 15]]), torch.ones(1, 4)
    before = frame_logits(model, text, mask, frames)
    for slot in range(4):
        other = text.clone()
        other[0, slot] = 19
        assert (frame_logits(model, other, mask, frames) != before).any(-1).all()


def test_no_text_state_depends_on_the_frames(make_model: MakeModel) -> None:
    model, text = make_model(Naive()), torch.tensor([[12, 13, 14, 15]])
    with torch.no_grad():
        one, other = (
            model(torch.cat([text, random_tokens(seed, 1, GRID.tokens)], 1), text_mask=torch.ones(1, 4))
            for seed in (1, 2)
        )
    assert torch.equal(one[:, :4], other[:, :4])


def test_a_sequence_that_ends_inside_a_frame_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="whole frames"):
        make_model(Naive())(torch.zeros(1, 4 + 7, dtype=torch.long), text_mask=torch.ones(1, 4))


@both_stages
@both_positions
def test_with_the_gate_open_every_generated_frame_has_the_logits_of_the_image_model_for_it_alone(
    make_model: MakeModel, stage: Stage, positions: Positions
) -> None:
    model = make_model(Naive(), GRID, stage, positions=positions)
    image = make_model(None, Grid(1, 2, 3), positions=positions)
    image.load_state_dict({k: v for k, v in model.state_dict().items() if k in image.state_dict()})
    for block in model.blocks:
        torch.nn.init.constant_(block.gate, torch.inf)
    if model.later_position_embeddings is not None:
        first = image.position_embeddings.weight.detach()[model.config.text_positions :]
        model.later_position_embeddings.weight.data.copy_(first.repeat(2, 1))
    text, mask = (
        random_tokens(0, 2, 4, first=TEXT_OFFSET, count=8),
        torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
    )
    frames = random_tokens(1, 2, GRID.tokens)
    together = frame_logits(model, text, mask, frames).chunk(3, dim=1)
    given = given_frames(stage, 3)
    for frame, tokens in enumerate(frames.chunk(3, dim=1)):
        if not given[frame]:
            # Products of another width round otherwise, in the last bits of float64.
            alone = frame_logits(image, text, mask, tokens)
            torch.testing.assert_close(together[frame], alone, rtol=1e-12, atol=1e-12)


def test_positions_of_the_plus_channel_change_nothing_of_the_image_model(make_model: MakeModel) -> None:
    text, mask, frame = torch.full((1, 4), 13), torch.ones(1, 4), random_tokens(1, 1, 6)
    learned, rotary = (make_model(None, Grid(1, 2, 3), positions=positions) for positions in Positions)
    assert torch.equal(frame_logits(learned, text, mask, frame), frame_logits(rotary, text, mask, frame))


def test_rotary_positions_tell_the_frames_apart_in_the_plus_channel(make_model: MakeModel) -> None:
    model = make_model(Naive(), positions=Positions.rotary)
    text, mask = torch.full((1, 4), 13), torch.ones(1, 4)
    one, two, last = random_tokens(1, 1, GRID.tokens).chunk(3, dim=1)
    here, swapped = (
        frame_logits(model, text, mask, torch.cat(order, 1)) for order in ([one, two, last], [two, one, last])
    )
    assert not torch.allclose(here[:, 12:], swapped[:, 12:])


def test_with_the_gate_closed_the_base_channel_changes_no_frame(make_model: MakeModel) -> None:
    model = make_model(Naive(), GRID, layers=1)
    torch.nn.init.constant_(model.blocks[0].gate, -1000.0)
    text, mask, frames = torch.full((1, 4), 13), torch.ones(1, 4), random_tokens(1, 1, GRID.tokens)
    before = frame_logits(model, text, mask, frames)
    torch.nn.init.normal_(model.blocks[0].base.qkv.weight, generator=torch.Generator().manual_seed(3))
    assert torch.equal(frame_logits(model, text, mask, frames), before)


@pytest.mark.parametrize("plus_init", list(PlusInit), ids=lambda p: p.value)
def test_the_plus_channel_starts_as_configured(make_model: MakeModel, plus_init: PlusInit) -> None:
    base = make_model(None, Grid(1, 2, 3), seed=1)
    model = make_model(Naive(), seed=2, plus_init=plus_init, gate_init=1.5)
    model.start_video(base.state_dict())
    for block, source in zip(model.blocks, base.blocks, strict=True):
        for name, weight in source.base.state_dict().items():
            assert torch.equal(block.base.state_dict()[name], weight)
            assert torch.equal(block.plus.state_dict()[name], weight) == (plus_init is PlusInit.copy)
        assert (block.gate == 1.5).all()
    first = base.position_embeddings.weight[model.config.text_positions :]
    assert model.later_position_embeddings is not None
    later = model.later_position_embeddings.weight.unflatten(0, (2, -1))
    offsets = later - first
    if plus_init is PlusInit.copy:
        assert (offsets == 0).all()
    else:
        # One offset a frame: where a token stands inside its frame is as in the image model.
        torch.testing.assert_close(offsets, offsets[:, :1].expand_as(offsets))
        assert not torch.allclose(offsets[0], offsets[1])


@both_stages
@pytest.mark.parametrize("base", list(Base), ids=lambda b: b.value)
@pytest.mark.parametrize("gate", list(Gate), ids=lambda g: g.value)
def test_what_trains_and_where_it_starts_is_as_configured(
    make_model: MakeModel, stage: Stage, base: Base, gate: Gate
) -> None:
    backend = Local3D(Local3D.Config(extent=[2, 2, 2], bias=True))
    image = make_model(None, Grid(1, 2, 3), seed=1)
    model = make_model(backend, GRID, stage, seed=2, base=base, gate=gate, gate_init=0.5)
    drawn = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.start_video(image.state_dict())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    gates = {name for name in drawn if name.endswith(".gate")}
    plus = {name for name in drawn if ".plus." in name or ".bias." in name or name.startswith("later_")}
    rest = set() if base is Base.frozen else drawn.keys() - plus - gates
    assert trained == plus | rest | (gates if gate is Gate.learned else set())
    for name, weight in model.state_dict().items():
        if name in gates:
            assert (weight == 0.5).all()
        elif base is Base.random:
            assert torch.equal(weight, drawn[name])
        elif name in image.state_dict():
            assert torch.equal(weight, image.state_dict()[name])


@both_stages
@both_positions
@pytest.mark.parametrize("muon_lr", [0.0, 0.05])
@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_training_a_video_stage_moves_its_own_parameters_and_nothing_of_the_base(
    make_model: MakeModel, stage: Stage, positions: Positions, muon_lr: float
) -> None:
    backend = Local3D(Local3D.Config(extent=[2, 2, 2], bias=True))
    model = make_model(backend, GRID, stage, positions=positions, dtype=torch.float32)
    model.start_video(make_model(None, Grid(1, 2, 3), seed=1, dtype=torch.float32).state_dict())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = StageConfig(steps=20, batch_size=2, adam_lr=0.01, muon_lr=muon_lr, weight_decay=0.01)
    module = TransformerModule(model, config, BEGIN)
    optimizer, schedule = build_optimizer(module.network.named_parameters(), config)
    batch = (
        random_tokens(0, 2, 3, 6),
        random_tokens(1, 2, 4, first=TEXT_OFFSET, count=8),
        torch.ones(2, 4, dtype=torch.bool),
    )
    model.train()
    for step in range(3):
        module.training_step(batch, step).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    own = (".plus.", ".gate", ".bias.table", "later_position_embeddings")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not any(part in name for part in own)), name


@pytest.mark.filterwarnings("ignore:.*self.log.*")
@pytest.mark.parametrize(
    ("stage", "image_first", "learned"),
    [
        ("sequential", True, [1, 2]),
        ("sequential", False, [0, 1, 2]),
        ("interpolation", True, [1]),
        ("interpolation", False, [1]),
        (None, True, [0]),
    ],
    ids=str,
)
def test_each_stage_learns_the_frames_that_it_generates(
    make_model: MakeModel, stage: Stage | None, image_first: bool, learned: list[int]
) -> None:
    model = make_model(Naive(), GRID, stage) if stage else make_model(None, Grid(1, 2, 3))
    config = StageConfig(steps=1, batch_size=1)
    module = TransformerModule(model, config, BEGIN, image_model_first=image_first)
    codes = random_tokens(0, 1, 3 if stage else 1, 6)
    text = (random_tokens(1, 1, 4, first=TEXT_OFFSET, count=8), torch.ones(1, 4))
    before = module.training_step((codes, *text), 0)
    for frame in range(codes.shape[1]):
        other = codes.clone()
        # The last token of a frame is only ever predicted, never an input.
        other[0, frame, -1] = (other[0, frame, -1] + 1) % 11
        changed = not torch.equal(module.training_step((other, *text), 0), before)
        assert changed == (frame in learned)


@pytest.mark.filterwarnings("ignore:.*self.log.*")
def test_token_noise_puts_tokens_of_given_frames_into_its_share_of_the_others(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(Naive(), GRID, "interpolation")
    config = InterpolationStageConfig(steps=1, batch_size=64, token_noise=0.5)
    # Each frame has codes of its own, so that every input says where it comes from.
    codes = torch.arange(3)[:, None] * 3 + random_tokens(0, 64, 3, 6, count=3)
    text = random_tokens(1, 64, 4, first=TEXT_OFFSET, count=8)
    seen, hidden = [], model.hidden
    monkeypatch.setattr(model, "hidden", lambda tokens, mask: seen.append(tokens) or hidden(tokens, mask))
    torch.manual_seed(0)
    TransformerModule(model, config, BEGIN).training_step((codes, text, torch.ones(64, 4)), 0)
    assert torch.equal(seen[0][:, :4], text)
    shown, clean = (x.view_as(codes) for x in (seen[0][:, 4:], frame_inputs(codes, BEGIN)))
    assert torch.equal(shown[:, [0, 2]], clean[:, [0, 2]])
    changed = shown[:, 1] != clean[:, 1]
    assert 0.4 < float(changed[:, 1:].float().mean()) < 0.6
    assert not changed[:, 0].any()
    from_first, from_last = (shown[:, 1] == clean[:, frame] for frame in (0, 2))
    assert (from_first | from_last)[changed].all()
    assert 0.4 < float(from_first[changed].float().mean()) < 0.6


def test_recomputing_activations_changes_no_gradient(make_model: MakeModel) -> None:
    tokens, gradients = random_tokens(0, 1, 4 + GRID.tokens), []
    for checkpointed in (False, True):
        model = make_model(Naive(), checkpoint_activations=checkpointed).train()
        model(tokens, text_mask=torch.ones(1, 4)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_inputs_are_the_tokens_shifted_behind_begin_of_image() -> None:
    codes = torch.tensor([[[1, 2, 3], [4, 5, 6]]])
    assert frame_inputs(codes, 9).tolist() == [[9, 1, 2, 9, 4, 5]]


@pytest.mark.parametrize("shift", [(2, 0, 0), (0, 3, 0), (0, 0, 5), (1, 2, 3)], ids=str)
def test_rotary_scores_depend_on_relative_positions_alone(shift: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 2, GRID.tokens, 16, generator=generator, dtype=torch.float64) for _ in range(2))

    def scores(offset: tuple[int, ...], only_keys: bool = False) -> Tensor:
        here = GRID.positions()
        there = Position(*(axis + o for axis, o in zip(here, offset, strict=True)))
        return rotate(q, rotation(here if only_keys else there, 16), 0) @ rotate(k, rotation(there, 16), 0).mT

    torch.testing.assert_close(scores(shift), scores((0, 0, 0)), rtol=0, atol=1e-5)
    assert (scores(shift, only_keys=True) - scores((0, 0, 0))).abs().max() > 0.1


def test_rotary_positions_leave_the_text_as_it_is() -> None:
    x = torch.randn(1, 2, 3 + GRID.tokens, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rotation(GRID.positions(), 16), 3)
    assert torch.equal(turned[:, :, :3], x[:, :, :3])
    # Of all frame slots only the first one stands at the origin.
    assert (turned[:, :, 4:] != x[:, :, 4:]).any(-1).all()
