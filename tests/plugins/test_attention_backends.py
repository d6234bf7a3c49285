"""Every registered attention backend keeps the order of generation; the built-in patterns are what they say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from cogvid import AttentionBackend, Grid, Position, UserError, create_component
from cogvid.config.schema import Positions
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.model.transformer import CogVideoTransformer
from cogvid.plugins.manager import create_plugin_manager
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

MakeModel = Callable[..., CogVideoTransformer]
Place = tuple[int, int, int]

MANAGER = create_plugin_manager()
REGISTERED = [info for info in MANAGER.components() if info.kind == "attention"]
# FlexAttention's compiler takes longer than all that is computed here; its own tests compile it.
OPTIONS = {"flex": {"compile": False}}
# Beside the defaults of whatever is registered: neighbourhoods smaller than the grids below. Triton's kernels run in
# an interpreter where there is no GPU, and in tests of their own.
BACKENDS: dict[str, AttentionBackend] = {
    **{
        info.name: MANAGER.create("attention", info.name, OPTIONS.get(info.name))
        for info in REGISTERED
        if info.name != "triton"
    },
    "small local3d": Local3D(Local3D.Config(extent=[2, 1, 2])),
    "local3d with a bias": Local3D(Local3D.Config(extent=[2, 2, 2], bias=True)),
    "small swin_ar": SwinAR(SwinAR.Config(window=[2, 2])),
    "swin_ar with a bias": SwinAR(SwinAR.Config(window=[2, 2], frames=2, bias=True)),
}
every_backend = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
both_stages = pytest.mark.parametrize("stage", ["sequential", "interpolation"])
both_positions = pytest.mark.parametrize("positions", list(Positions), ids=lambda p: p.value)
small_grids = pytest.mark.parametrize("grid", [Grid(3, 2, 3), Grid(5, 2, 2)], ids=["3x2x3", "5x2x2"])


def order_of_generation(stage: Stage, grid: Grid) -> Tensor:
    """Whether the logits of a slot (rows) may depend on the input of another, from the paper's rule."""
    n, indices = grid.frame_tokens, range(grid.tokens)

    def allowed(query: int, key: int) -> bool:
        if stage == "interpolation" and (key // n) % 2 == 0:
            return True
        return key <= query and not (stage == "interpolation" and (query // n) % 2 == 0)

    return torch.tensor([[allowed(query, key) for key in indices] for query in indices])


def logits_before_and_after(model: CogVideoTransformer, changed: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a sequence, and of copies of it with other inputs in the slots that `changed` (copies, slots) marks."""
    text = model.config.text_length
    tokens = torch.randint(11, (1, text + changed.shape[1]), generator=torch.Generator().manual_seed(1))
    tokens = tokens.repeat(len(changed), 1)
    other = tokens.clone()
    other[:, text:] = torch.where(changed, (tokens[:, text:] + 1) % 11, tokens[:, text:])
    mask = torch.ones(len(changed), text, dtype=torch.bool)
    mask[:, 0] = False
    with torch.no_grad():
        return tuple(model(sequence, text_mask=mask)[:, text:] for sequence in (tokens, other))


def test_the_built_in_backends_are_registered() -> None:
    expected = {"naive", "local3d", "swin_ar", "triton", "flex", "auto"}
    assert expected <= {info.name for info in REGISTERED}


@every_backend
@both_stages
@both_positions
@small_grids
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_no_logit_depends_on_anything_generated_later(
    make_model: MakeModel,
    backend: AttentionBackend,
    stage: Stage,
    positions: Positions,
    grid: Grid,
    dtype: torch.dtype,
) -> None:
    model = make_model(backend, grid, stage, positions=positions, dtype=dtype)
    # Copy i changes everything that slot i must not know.
    before, after = logits_before_and_after(model, ~order_of_generation(stage, grid))
    assert torch.equal(before.diagonal(dim1=0, dim2=1), after.diagonal(dim1=0, dim2=1))
    assert not torch.equal(before, after)


@every_backend
@both_stages
@both_positions
@small_grids
def test_one_layer_sees_its_own_frame_and_the_pattern_and_nothing_else(
    make_model: MakeModel, backend: AttentionBackend, stage: Stage, positions: Positions, grid: Grid
) -> None:
    model = make_model(backend, grid, stage, layers=1, positions=positions)
    # Copy j changes slot j alone.
    before, after = logits_before_and_after(model, torch.eye(grid.tokens, dtype=torch.bool))
    depends = (before != after).any(-1).mT
    frame = torch.arange(grid.tokens) // grid.frame_tokens
    own_frame = (frame[:, None] == frame) & order_of_generation(stage, grid)
    visible = Visibility(backend.pattern, grid, given_frames(stage, grid.frames), layer=0).dense()
    assert torch.equal(depends, visible | own_frame)


@every_backend
@both_stages
def test_every_token_sees_itself_in_every_layer(backend: AttentionBackend, stage: Stage) -> None:
    grid = Grid(3, 5, 7)
    for layer in range(4):
        assert Visibility(backend.pattern, grid, given_frames(stage, 3), layer).dense().diagonal().all()


def pattern(backend: AttentionBackend, layer: int = 0) -> list[list[bool]]:
    axes = Grid(3, 5, 7).positions()
    query, key = (Position(*(axis.unsqueeze(d) for axis in axes)) for d in (1, 0))
    return backend.pattern(query, key, layer).tolist()


def written_out(near: Callable[[Place, Place], bool]) -> list[list[bool]]:
    places = list(product(range(3), range(5), range(7)))
    return [[near(query, key) for key in places] for query in places]


def test_naive_sees_everything() -> None:
    assert pattern(Naive()) == written_out(lambda query, key: True)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("extent", [[2, 1, 3], [1, 4, 2], [3, 5, 7]], ids=str)
def test_local3d_sees_less_than_extent_away(extent: list[int], layer: int) -> None:
    frames, rows, columns = extent
    backend = Local3D(Local3D.Config(extent=extent))
    assert pattern(backend, layer) == written_out(
        lambda q, k: abs(q[0] - k[0]) < frames and abs(q[1] - k[1]) < rows and abs(q[2] - k[2]) < columns
    )


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("frames", [None, 1, 2])
@pytest.mark.parametrize("window", [[3, 3], [2, 5], [10, 10], [1, 1]], ids=str)
def test_swin_ar_sees_its_window_shifted_by_half_rounded_down_in_odd_layers(
    window: list[int], frames: int | None, layer: int
) -> None:
    def cells(size: int, side: int) -> list[int]:
        """Which window each coordinate lies in: they begin at the shift, a smaller one before it."""
        first = int(side / 2) if layer in (1, 3) else 0
        return [-1 if place < first else int((place - first) / side) for place in range(size)]

    rows, columns = cells(5, window[0]), cells(7, window[1])
    backend = SwinAR(SwinAR.Config(window=window, frames=frames))
    assert pattern(backend, layer) == written_out(
        lambda q, k: (
            rows[q[1]] == rows[k[1]]
            and columns[q[2]] == columns[k[2]]
            and (frames is None or abs(q[0] - k[0]) < frames)
        )
    )


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("local3d", {"extent": [1, 2]}, "extent: .* 3 values"),
        ("local3d", {"extent": [1, 0, 2]}, "extent: .* each at least 1"),
        ("local3d", {"extent": [1, 0.5, 2]}, "extent"),
        ("local3d", {"extent": [1, "a", 2]}, "extent"),
        ("swin_ar", {"window": [3]}, "window: .* 2 values"),
        ("swin_ar", {"window": [0, 3]}, "window: .* each at least 1"),
        ("swin_ar", {"window": [3, None]}, "window"),
        ("swin_ar", {"frames": 0}, "frames: .* at least 1"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_by_name(name: str, options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=rf"options\.{named}"):
        create_component("attention", name, options)


def test_the_bias_is_one_number_a_head_for_each_offset_up_to_its_border() -> None:
    bias = Local3D(Local3D.Config(extent=[2, 3, 4], bias=True)).bias(heads=2)
    assert bias is not None
    assert bias.table.shape == (2, 3, 5, 7)
    torch.nn.init.normal_(bias.table, generator=torch.Generator().manual_seed(0))
    query = Position(*(torch.tensor(x) for x in (4, 4, 4)))
    for frames, rows, columns in [(0, 0, 0), (1, -2, 3), (-1, 2, -3), (3, -4, 4)]:
        key = Position(query.frame - frames, query.row - rows, query.column - columns)
        place = (max(-1, min(frames, 1)) + 1, max(-2, min(rows, 2)) + 2, max(-3, min(columns, 3)) + 3)
        assert torch.equal(bias(query, key), bias.table[(slice(None), *place)])


@pytest.mark.parametrize("cls", [Local3D, SwinAR])
def test_the_bias_of_every_layer_learns(make_model: MakeModel, cls: type[AttentionBackend]) -> None:
    model = make_model(cls(cls.Config(bias=True)))
    tokens = torch.randint(11, (2, 4 + 18), generator=torch.Generator().manual_seed(1))
    model(tokens, text_mask=torch.ones(2, 4)).square().mean().backward()
    tables = [block.bias.table for block in model.blocks]
    assert len(tables) == len({id(table) for table in tables}) == 2
    assert all(table.grad is not None and table.grad.abs().max() > 0 for table in tables)
