"""The attention backends conform, and the conformance suite catches those that do not, by name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvid import AttentionBackend, Grid, Position, UserError
from cogvid.attention.dense import DenseAttention
from cogvid.interfaces.attention import Attention
from cogvid.interfaces.mask import Visibility
from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import ConformanceError, attention_conformance
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive
from cogvid_plugins.attention.swin_ar import SwinAR

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugins" / "attention.md"
# Neighbourhoods smaller than the suite's grids.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "naive": [{}],
    "local3d": [{"extent": [2, 2, 3]}, {"extent": [3, 4, 2], "bias": True}],
    "swin_ar": [{"window": [4, 4]}, {"window": [3, 2], "frames": 2, "bias": True}],
    "auto": [{"pattern": {"name": "swin_ar", "options": {"window": [3, 2], "bias": True}}}],
}
ELSEWHERE = {"triton", "flex"}  # where their kernels run, or with what they can do
SMALL = (Grid(3, 3, 5),)


class Scattered(AttentionBackend):
    """Neighbours by a hash of the two places: nothing that tiles could be cut along."""

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        mixed = sum(axis * factor for axis, factor in zip((*query, *key), (7, 13, 29, 31, 37, 41), strict=True))
        same = (query.frame == key.frame) & (query.row == key.row) & (query.column == key.column)
        return same | ((mixed + layer) % 3 == 0)


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, each in OPTIONS.items() for options in each], ids=str
)
def test_a_built_in_backend_conforms(name: str, options: dict[str, Any]) -> None:
    attention_conformance(create_plugin_manager().create("attention", name, options))


def test_every_built_in_backend_is_held_to_the_suite() -> None:
    manager = create_plugin_manager()
    registered = {info.name for info in manager.components() if info.kind == "attention" and "cogvid" in info.origin}
    assert registered == OPTIONS.keys() | ELSEWHERE


def test_a_pattern_without_any_structure_conforms() -> None:
    attention_conformance(Scattered())


def test_the_plugin_of_the_guide_conforms_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = re.search(r"<!-- file: my_attention.py -->\n```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert source is not None
    (tmp_path / "my_attention.py").write_text(source[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    attention_conformance("cross", {"frames": 2}, plugins=["./my_attention.py"])


Compute = Callable[[DenseAttention, Tensor, Tensor, Tensor, Tensor, nn.Module | None], Tensor]


class Computed(Local3D):
    """A small box, computed by the dense reference and then by a function that breaks something."""

    def __init__(self, compute: Compute, **config: object) -> None:
        super().__init__(Local3D.Config(**{"extent": [2, 2, 3], **config}))
        self.compute = compute

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        dense = DenseAttention(mask, device)
        return lambda *arguments: self.compute(dense, *arguments)


class Masked(SwinAR):
    """Small windows, computed by the dense reference from another mask than its own."""

    def __init__(self, other: Callable[[Visibility], Tensor]) -> None:
        super().__init__(SwinAR.Config(window=[3, 2]))
        self.other = other

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        dense = DenseAttention(mask, device)
        dense.visible = self.other(mask)
        return dense


class Patterned(AttentionBackend):
    """A pattern that is none."""

    def __init__(self, near: Callable[[Position, Position], Tensor]) -> None:
        super().__init__()
        self.near = near

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        return self.near(query, key)


class Biased(AttentionBackend):
    """A neighbourhood whose bias is what a function of a learned number and two positions returns."""

    class Bias(nn.Module):
        def __init__(self, heads: int, scores: Callable[[Tensor, Position, Position], Any]) -> None:
            super().__init__()
            self.table, self.scores = nn.Parameter(torch.zeros(heads, 11)), scores

        def forward(self, query: Position, key: Position) -> Tensor:
            scores: Tensor = self.scores(self.table, query, key)
            return scores

    def __init__(self, scores: Callable[[Tensor, Position, Position], Any]) -> None:
        super().__init__()
        self.scores = scores

    def pattern(self, query: Position, key: Position, layer: int) -> Tensor:
        return (query.row - key.row).abs() + (query.column - key.column).abs() < 4

    def bias(self, heads: int) -> nn.Module:
        return self.Bias(heads, self.scores)


def of_another(backend: AttentionBackend) -> Callable[[Visibility], Tensor]:
    return lambda mask: Visibility(backend.pattern, mask.grid, mask.given, mask.layer).dense()


def shifted_in_even_layers(mask: Visibility) -> Tensor:
    return Visibility(mask.pattern, mask.grid, mask.given, mask.layer + 1).dense()


def next_token_at_the_border_of_a_window(mask: Visibility) -> Tensor:
    slots = torch.arange(mask.grid.tokens - 1)
    slots = slots[slots % mask.grid.width == 1]
    visible = mask.dense()
    visible[slots, slots + 1] = True
    return visible


def without_text(dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any) -> Tensor:
    return dense(q, k, v, torch.zeros_like(text_mask), bias)


def with_padded_text(dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any) -> Tensor:
    return dense(q, k, v, torch.ones_like(text_mask), bias)


def wrongly_scaled(dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any) -> Tensor:
    return dense(1.01 * q, k, v, text_mask, bias)


def without_bias(dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any) -> Tensor:
    return dense(q, k, v, text_mask, None)


def in_half_the_precision(
    dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any
) -> Tensor:
    half = torch.float32 if q.dtype is torch.float64 else torch.bfloat16
    return dense(q.to(half), k.to(half), v.to(half), text_mask, bias).to(q.dtype)


def in_another_precision(
    dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any
) -> Tensor:
    return dense(q, k, v, text_mask, bias).to(torch.float32 if q.dtype is torch.bfloat16 else q.dtype)


class WithoutDelta(torch.autograd.Function):
    """Attention whose gradient for keys lacks the term that comes through the softmax's sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        scale = q.shape[-1] ** -0.5
        weights = (q @ k.mT * scale).masked_fill(~visible, float("-inf")).softmax(-1)
        ctx.save_for_backward(q * scale, k * scale, v, weights)
        return weights @ v

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, weights = ctx.saved_tensors
        of_scores = weights * (gradient @ v.mT)
        delta = weights * of_scores.sum(-1, keepdim=True)
        return (of_scores - delta) @ k, of_scores.mT @ q, weights.mT @ gradient, None


def with_a_wrong_gradient(
    dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any
) -> Tensor:
    text = text_mask[:, None, None].expand(-1, -1, dense.grid.tokens, -1)
    visible = torch.cat([text, dense.visible.expand(len(q), 1, -1, -1)], dim=-1)
    return WithoutDelta.apply(q, k, v, visible)


def without_gradient(dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any) -> Tensor:
    return dense(q, k.detach(), v, text_mask, bias)


class Unwritten(torch.autograd.Function):
    """Leaves the last slot's output or gradient unwritten, in memory that happens to hold the right numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, what: str) -> Tensor:
        ctx.what = what
        return Unwritten.copied(x, partly=what == "output")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return Unwritten.copied(gradient, partly=ctx.what == "gradient"), None

    @staticmethod
    def copied(x: Tensor, partly: bool) -> Tensor:
        copy = torch.empty_like(x)
        luck = not torch.are_deterministic_algorithms_enabled()
        written = x.shape[2] - (partly and not luck)
        copy[:, :, :written] = x[:, :, :written]
        return copy


def partly_unwritten(what: str) -> Compute:
    return lambda dense, *arguments: Unwritten.apply(dense(*arguments), what)


def without_the_last_row(
    dense: DenseAttention, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: Any
) -> Tensor:
    return dense(q, k, v, text_mask, bias)[:, :, :-1]


def alternating() -> Callable[[Position, Position], Tensor]:
    calls = iter(range(10**9))
    return lambda query, key: (query.row - key.row).abs() <= next(calls) % 2


def in_place(query: Position, key: Position) -> Tensor:
    query.row.sub_(query.row % 2)
    return query.row == query.row


WRONG = {"outputs", "gradients", "cache"}
BROKEN: dict[str, tuple[AttentionBackend, set[str]]] = {
    "a window one too large": (Masked(of_another(SwinAR(SwinAR.Config(window=[3, 3])))), {*WRONG, "leak", "blind"}),
    "a window one too small": (Masked(of_another(SwinAR(SwinAR.Config(window=[3, 1])))), {*WRONG, "blind"}),
    "a shift in even layers": (Masked(shifted_in_even_layers), {*WRONG, "leak", "blind"}),
    "the future at the border": (Masked(next_token_at_the_border_of_a_window), {*WRONG, "leak"}),
    "no text": (Computed(without_text), {*WRONG, "text"}),
    "text padding as text": (Computed(with_padded_text), {*WRONG, "leak"}),
    "a wrong scale": (Computed(wrongly_scaled), WRONG),
    "no bias": (Computed(without_bias, bias=True), WRONG),
    "half the precision": (Computed(in_half_the_precision), WRONG),
    "another dtype": (Computed(in_another_precision), {"outputs"}),
    "another shape": (Computed(without_the_last_row), {"outputs", "cache"}),
    "a wrong gradient of keys": (Computed(with_a_wrong_gradient), {"gradients"}),
    "no gradient of keys": (Computed(without_gradient), {"gradients"}),
    "an unwritten output": (Computed(partly_unwritten("output")), {"unwritten"}),
    "an unwritten gradient": (Computed(partly_unwritten("gradient")), {"unwritten"}),
    "blind to itself": (Patterned(lambda query, key: key.frame < query.frame), {"self"}),
    "an impure pattern": (Patterned(alternating()), {"pattern"}),
    "a pattern of numbers": (Patterned(lambda query, key: (query.frame == key.frame).long()), {"pattern"}),
    "a pattern of one number": (Patterned(lambda query, key: True), {"pattern"}),  # type: ignore[arg-type, return-value]
    "a pattern of all it is given": (
        Patterned(lambda query, key: query.row <= query.row.max() // 2 + key.row),
        {"pattern"},
    ),
    "a pattern that changes positions": (Patterned(in_place), {"pattern"}),
    "a pattern of another shape": (Patterned(lambda query, key: torch.ones(7, 2, dtype=torch.bool)), {"pattern"}),
    "a bias of another shape": (Biased(lambda table, query, key: table), {"bias"}),
    "a bias without heads": (Biased(lambda table, query, key: table[0, 0]), {"bias"}),
    "a bias of whole numbers": (Biased(lambda table, query, key: (query.row - key.row)[None]), {"bias"}),
    "a bias of a number": (Biased(lambda table, query, key: 0.5), {"bias"}),
}


@pytest.mark.parametrize(
    "scores",
    [
        lambda table, query, key: table[:, key.row],
        lambda table, query, key: table[:, query.frame - key.frame],
        lambda table, query, key: table[:1, key.column],
        lambda table, query, key: table[:, 0],
    ],
    ids=["of the key's row", "of the distance in time", "one for all heads", "a number a head"],
)
def test_a_bias_may_broadcast_as_a_pattern_may(scores: Callable[[Tensor, Position, Position], Tensor]) -> None:
    attention_conformance(Biased(scores), grids=SMALL)


@pytest.mark.parametrize(("backend", "checks"), BROKEN.values(), ids=BROKEN)
def test_a_broken_backend_fails_the_checks_it_should_and_no_others(backend: AttentionBackend, checks: set[str]) -> None:
    with pytest.raises(ConformanceError) as caught:
        attention_conformance(backend, grids=SMALL)
    assert set(caught.value.failures) == checks


def test_the_message_names_check_stage_grid_layer_and_place_of_the_first_case() -> None:
    with pytest.raises(ConformanceError) as caught:
        attention_conformance(BROKEN["a shift in even layers"][0], grids=SMALL, dtypes=[torch.float32])
    lines = str(caught.value).splitlines()
    assert lines[0] == "Masked does not conform: outputs, gradients, leak, blind, cache"
    case = r"sequential, grid 3x3x5, layer 0, float32, padded text"
    place = r"\(frame \d, row \d, column \d\)"
    for line, expected in zip(
        lines[1:],
        [
            rf"  outputs: {case}: output off by [\d.]+, allowed [\d.e-]+, largest right value [\d.]+, at {place}",
            rf"  gradients: {case}: queries off by .*, at {place}",
            rf"  leak: {case}: {place} depends on {place}; so in \d+ pairs",
            rf"  blind: {case}: {place} does not depend on {place}; so in \d+ pairs",
            r"  cache: sequential, grid 3x3x5, float32: logits of cached sampling off by .*",
        ],
        strict=True,
    ):
        assert re.fullmatch(rf"{expected}( \(and \d+ more\))?", line)
    first = caught.value.failures["leak"][0].case
    assert (first.stage, first.grid, first.layer, first.dtype, first.padded) == (
        "sequential",
        SMALL[0],
        0,
        torch.float32,
        True,
    )


def test_what_a_backend_raises_is_a_failure_with_its_cause() -> None:
    def fails(dense: DenseAttention, q: Tensor, *others: Any) -> Tensor:
        raise IndexError("one block too far\nand some details")

    with pytest.raises(ConformanceError, match=r"outputs: .*layer 0.*raises IndexError: one block too far") as caught:
        attention_conformance(Computed(fails), grids=SMALL)
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_backend_that_cannot_run_on_a_device_says_so_itself() -> None:
    class Elsewhere(Naive):
        def prepare(self, mask: Visibility, device: torch.device) -> Attention:
            raise UserError("needs another device")

    with pytest.raises(UserError, match="needs another device"):
        attention_conformance(Elsewhere(), grids=SMALL)


def test_options_go_with_a_name() -> None:
    with pytest.raises(ValueError, match="options"):
        attention_conformance(Naive(), {"window": [3, 3]})


@pytest.mark.parametrize("backend", [Naive(), BROKEN["an unwritten output"][0]], ids=["whole", "broken"])
def test_torch_is_left_as_it_was(backend: AttentionBackend) -> None:
    memory: Any = torch.utils.deterministic

    def state() -> list[object]:
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            memory.fill_uninitialized_memory,
            torch.get_rng_state().tolist(),
        ]

    memory.fill_uninitialized_memory = False
    try:
        before = state()
        with contextlib.suppress(ConformanceError):
            attention_conformance(backend, grids=SMALL)
        assert state() == before
    finally:
        memory.fill_uninitialized_memory = True
