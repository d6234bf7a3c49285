"""Backends that compute another one's pattern: what they are given, what they refuse, and what they choose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvid import AttentionBackend, Grid, UserError, create_component
from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import DenseAttention
from cogvid.attention.prepare import prepare_attention
from cogvid.config import load_experiment
from cogvid.interfaces.attention import Attention, PatternRunner
from cogvid.interfaces.mask import Visibility, given_frames
from cogvid.pipeline.lab import Lab
from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import attention_conformance
from cogvid_plugins.attention.auto import Fastest
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.swin_ar import SwinAR

CPU = torch.device("cpu")
RUNNERS = ("triton", "flex", "auto")
SWIN = {"name": "swin_ar", "options": {"window": [3, 2]}}
GRID = Grid(3, 5, 6)
STRANGER = """
import cogvid

class Rows(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return query.row == key.row

@cogvid.hookimpl
def register_attention_backends():
    return {"rows": Rows}
"""


def visibility(backend: AttentionBackend, layer: int = 0) -> Visibility:
    return Visibility(backend.pattern, GRID, given_frames("sequential", GRID.frames), layer)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(2, 5 + GRID.tokens, 3, 2, 16, dtype=dtype).permute(2, 0, 3, 1, 4)
    text_mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], dtype=torch.bool)
    return q[:, :, 5:], k, v, text_mask


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_has_the_pattern_it_names_and_all_earlier_tokens_by_default(name: str) -> None:
    for pattern, expected in ((SWIN, SwinAR(SwinAR.Config(window=[3, 2]))), ("local3d", Local3D())):
        backend = create_component("attention", name, {"pattern": pattern})
        for layer in (0, 1):
            assert compact_mask(visibility(backend, layer)) == compact_mask(visibility(expected, layer))
    default = compact_mask(visibility(create_component("attention", name)))
    assert default == compact_mask(visibility(create_component("attention", "naive")))


@pytest.mark.parametrize("name", RUNNERS)
@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("swin_a", ["swin_a", "swin_ar", "pattern"]),
        ({"name": "swin_ar", "options": {"windows": [2, 2]}}, ["pattern.options.windows", "window"]),
        ({"name": "swin_ar", "options": {"window": [2]}}, ["pattern", "2 values"]),
        ({"nam": "swin_ar"}, ["pattern.nam", "no such option"]),
    ],
    ids=str,
)
def test_a_wrong_pattern_is_refused_under_its_full_key(name: str, pattern: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        create_plugin_manager().create("attention", name, {"pattern": pattern}, "attention")
    for word in ["attention.options", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["triton", "flex"])
def test_a_bias_that_kernels_do_not_carry_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=r"cannot add the bias of the pattern Local3D.*switch the bias off"):
        create_component("attention", name, {"pattern": {"name": "local3d", "options": {"bias": True}}})


def test_a_runner_of_a_strangers_pattern_depends_on_the_strangers_file(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(STRANGER)
    overrides = [f"plugins=[{tmp_path / 'rows.py'}]", "attention={name: auto, options: {pattern: rows}}"]

    def lab() -> Lab:
        return Lab(load_experiment("quickstart", None, overrides).config)

    before = lab()
    assert [part["name"] for part in before.used() if part["kind"] == "attention"] == ["auto", "rows"]
    identity = before.identity("attention", before.config.attention)
    (tmp_path / "rows.py").write_text(STRANGER.replace("==", ">="))
    assert lab().identity("attention", before.config.attention) != identity


@pytest.mark.parametrize(
    "compiled", [pytest.param(False, id="as it is"), pytest.param(True, id="compiled", marks=pytest.mark.slow)]
)
def test_flex_infers_what_the_mask_says(compiled: bool) -> None:
    torch.manual_seed(0)
    backend = create_component("attention", "flex", {"pattern": SWIN, "compile": compiled})
    q, k, v, text_mask = inputs()
    for layer in (0, 1):
        mask = visibility(backend, layer)
        attention, dense = prepare_attention(backend, mask, CPU), DenseAttention(mask, CPU)
        with torch.no_grad():
            for text in (text_mask, ~text_mask):
                found, expected = attention(q, k, v, text, None), dense(q, k, v, text, None)
                torch.testing.assert_close(found, expected)


def test_flex_conforms_in_inference() -> None:
    backend = create_component("attention", "flex", {"pattern": SWIN, "compile": False})
    attention_conformance(backend, gradients=False, grids=(Grid(3, 3, 5), Grid(5, 4, 3)))


def test_layers_with_equal_masks_are_compiled_once() -> None:
    backend = create_component("attention", "flex", {"pattern": SWIN})
    first, second, third = (prepare_attention(backend, visibility(backend, layer), CPU) for layer in (0, 1, 2))
    assert first is third is not second


def test_flex_refuses_to_train_on_a_cpu() -> None:
    backend = create_component("attention", "flex", {"pattern": SWIN})
    q, k, v, text_mask = inputs()
    with pytest.raises(UserError, match=r"flex: .*no backward on a CPU"):
        prepare_attention(backend, visibility(backend), CPU)(q.detach().requires_grad_(), k, v, text_mask, None)


class Way:
    """A way to compute attention that counts its calls, and takes as many matrix products as it is told."""

    def __init__(self, products: int, error: Exception | None = None) -> None:
        self.products, self.error, self.calls = products, error, 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        if self.error:
            raise self.error
        self.calls += 1
        work = torch.eye(200)
        for _ in range(self.products):
            work = work @ work
        return q * float(work[0, 0])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cogvid" / "attention"


def fastest(ways: dict[str, Way]) -> Fastest:
    return Fastest(visibility(SwinAR()), {name: lambda way=way: way for name, way in ways.items()})  # type: ignore[misc]


def test_auto_takes_the_fastest_that_can_run_and_remembers_it(cache: Path) -> None:
    ways = {"slow": Way(200), "fast": Way(0), "broken": Way(0, UserError("not here"))}
    attention = fastest(ways)
    q, k, v, text_mask = inputs()
    for _ in range(3):
        attention(q, k, v, text_mask, None)
    measured = ways["slow"].calls
    assert ways["fast"].calls == measured + 3
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["fastest"] == "fast"
    # Another process, in which the machine's mood is another: the choice stays.
    later = {"slow": Way(0), "fast": Way(200), "broken": Way(0)}
    fastest(later)(q, k, v, text_mask, None)
    assert (later["slow"].calls, later["fast"].calls) == (0, 1)


def test_auto_measures_training_and_inference_apart(cache: Path) -> None:
    attention = fastest({"a": Way(0), "b": Way(1)})
    q, k, v, text_mask = inputs()
    attention(q.detach().requires_grad_(), k, v, text_mask, None)
    with torch.no_grad():
        attention(q, k, v, text_mask, None)
    assert len(list(cache.iterdir())) == 2


def test_auto_that_can_write_nothing_still_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend = create_component("attention", "auto", {"pattern": SWIN})
    q, k, v, text_mask = inputs()
    mask = visibility(backend)
    expected = DenseAttention(mask, CPU)(q, k, v, text_mask, None)
    torch.testing.assert_close(prepare_attention(backend, mask, CPU)(q, k, v, text_mask, None), expected)


def test_auto_without_any_way_says_so(cache: Path) -> None:
    attention = fastest({"a": Way(0, UserError("no CUDA")), "b": Way(0, UserError("no memory"))})
    with pytest.raises(UserError, match=r"auto: .*a: no CUDA.*b: no memory"):
        attention(*inputs(), None)


class Counted(PatternRunner):
    """A runner that carries biases."""

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        return DenseAttention(mask, device)


def test_a_runner_carries_biases_unless_it_says_otherwise() -> None:
    backend = Counted(Counted.Config(pattern=Local3D(Local3D.Config(bias=True))))  # type: ignore[arg-type]
    assert backend.bias(2) is not None
