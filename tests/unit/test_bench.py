"""`cogvid bench attention`: nothing is timed that fails its check, and what is timed is recorded whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvid import Grid
from cogvid.bench import check, measure
from cogvid.bench.cases import AttentionCase, AttentionSettings, default_cases, make_case
from cogvid.bench.check import Reference
from cogvid.bench.measure import time_rounds
from cogvid.bench.memory import peaks_in_fresh_process
from cogvid.bench.methods import find_method
from cogvid.config.schema import ComponentConfig

Bench = Callable[..., tuple[int, str, Any]]
SMALL = AttentionSettings(heads=2, head_size=8, text=8)
# Each is right but for one thing.
WRONG = """
import cogvid
from cogvid.attention.compact import compact_mask
from cogvid.attention.tiles import TiledAttention

class {name}(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return (query.row - key.row).abs() < 2

    def prepare(self, mask, device):
        right = TiledAttention(compact_mask(mask), device)
        def attention(q, k, v, text_mask, bias):
            return {result}
        return attention

@cogvid.hookimpl
def register_attention_backends():
    return {{"rows": {name}}}
"""
RESULTS = {
    "output": ("right(q, k, v, text_mask, bias) * 1.001", "output off by"),
    "text": ("right(q, k, v, text_mask | True, bias)", "output off by"),
    "gradient": ("right(q, k, v.detach(), text_mask, bias)", "values off by"),
    "half of a gradient": ("right((q + q.detach()) / 2, k, v, text_mask, bias)", "queries off by"),
}


@pytest.fixture
def bench(run_bench: Bench) -> Bench:
    return partial(run_bench, "attention")


def test_a_rehearsal_checks_times_records_and_draws(bench: Bench) -> None:
    code, output, record = bench("attention=swin_ar", "attention.options.window=[2,3]")
    assert code == 0, output
    assert record["rehearsal"] is True
    assert {"date", "protocol", "tuned"} <= record.keys()
    assert record["hardware"].keys() == {"cpu", "cores", "threads", "gpu"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"].keys() == {"python", "cogvid", "torch", "triton"}
    assert record["arguments"]["methods"] == ["dense", "causal", "tiled"]
    (case,) = record["cases"]
    assert case["attention"] == {"name": "swin_ar", "options": {"window": [2, 3], "frames": None, "bias": False}}
    assert case["layers"] == [0, 1]
    for name, method in case["methods"].items():
        assert method["identical"] == (name != "causal")
        assert ("error" in method) == method["identical"]
        for step in ("forward", "forward_backward"):
            assert 0 < method[f"{step}_s"]["min"] <= method[f"{step}_s"]["median"]
            assert method["ratio_to_dense"][step] > 0
            assert method["s_per_token"][step] == method[f"{step}_s"]["median"] / 72
            assert method["peak_memory_bytes"][step] is None or method["peak_memory_bytes"][step] >= 0
    assert case["methods"]["dense"]["ratio_to_dense"] == {"forward": 1.0, "forward_backward": 1.0}
    assert Path("results/out.png").read_bytes().startswith(b"\x89PNG")
    assert "tiled" in output
    assert "another mask" in output


@pytest.mark.parametrize(("result", "said"), RESULTS.values(), ids=RESULTS)
def test_a_method_that_fails_its_check_is_named_and_never_timed(bench: Bench, result: str, said: str) -> None:
    Path("wrong.py").write_text(WRONG.format(name="Rows", result=result))
    code, output, record = bench("attention=rows", "plugins=[./wrong.py]", "--methods", "rows")
    assert code == 1
    method = record["cases"][0]["methods"]["rows"]
    assert method["wrong"] is True
    assert said in method["skipped"]
    assert not any(key.endswith("_s") or "memory" in key for key in method)
    assert "Error: Not timed, because the check failed: rows on" in output


def test_a_backend_with_its_own_computation_is_measured_beside_the_tiles(bench: Bench) -> None:
    Path("mine.py").write_text(WRONG.format(name="Rows", result="right(q, k, v, text_mask, bias)"))
    code, output, record = bench("attention=rows", "plugins=[./mine.py]", "--forward-only")
    assert code == 0, output
    methods = record["cases"][0]["methods"]
    assert list(methods) == ["dense", "causal", "tiled", "rows"]
    assert "forward_s" in methods["rows"]
    assert not any("forward_backward_s" in method for method in methods.values())


def test_a_mask_that_does_not_fit_into_memory_is_skipped_and_said_to_be(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "free_memory", lambda device: 1000)
    code, output, record = bench("attention=naive", "--methods", "dense,tiled", "--forward-only")
    assert code == 0, output
    dense, tiled = (record["cases"][0]["methods"][name] for name in ("dense", "tiled"))
    assert "the mask takes" in dense["skipped"]
    assert dense["wrong"] is False
    assert dense["skipped"] in output
    assert tiled["ratio_to_dense"] == {"forward": None, "forward_backward": None}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "5x21x20"], "no standard case has this grid"),
        (["attention=naive", "--methods", "dense,tilde"], "Did you mean 'tiled'"),
        (["attention=naiv"], "Did you mean 'naive'"),
        (["video.frames=3"], "video belongs to an experiment"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_shows_before_anything_is_measured(bench: Bench, words: list[str], said: str) -> None:
    code, output, record = bench(*words)
    assert code == 1
    assert output.startswith("Error: ")
    assert said in output
    assert not record


def test_the_standard_cases_can_be_built() -> None:
    cases = default_cases("cuda")
    assert len({case.name for case in cases}) == len(cases) == 9
    manager = cases[0].manager()
    for case in cases:
        manager.create("attention", case.component.name, case.component.options)


def local(grid: Grid = Grid(3, 5, 4)) -> AttentionCase:
    return make_case(ComponentConfig("local3d", {"extent": [2, 3, 2], "bias": True}), grid)


@pytest.mark.parametrize("queries", [1000, 7])
def test_some_queries_are_enough_to_tell_right_from_wrong(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    case, layout = local(), (8 + 60) * SMALL.heads
    monkeypatch.setitem(check._LARGEST, "cpu", queries * layout)
    manager = case.manager()
    problem = next(case.problems(manager, SMALL))
    reference = Reference(problem)
    assert len(reference.slots) == min(queries, 60)
    assert reference.whole == (queries > 60)
    for name in ("dense", "tiled"):
        run = find_method(name, case, manager).prepare(problem)
        found = {each.name: each for each in reference.deviations(run, backward=True)}
        assert found.keys() == {"output", "queries", "keys", "values"}
        assert not any(each.wrong for each in found.values())

        def off(packed: Tensor, run: Any = run) -> Tensor:
            result: Tensor = run(torch.cat([packed[:, :, :1].detach(), packed[:, :, 1:]], dim=2))
            return result

        assert {each.name for each in reference.deviations(off, backward=True) if each.wrong} == {"queries"}


def test_rounds_are_interleaved() -> None:
    called: list[str] = []
    times = time_rounds({name: lambda n=name: called.append(n) for name in "ab"}, 3, 0.0, torch.device("cpu"))
    # Once each to see how long it takes, then once a round.
    assert called == ["a", "b"] * 4
    assert times.keys() == {"a", "b"}


def test_the_peak_of_the_dense_method_holds_its_mask_twice() -> None:
    case, settings = local(Grid(8, 16, 16)), AttentionSettings(heads=1, head_size=64, text=8, forward_only=True)
    case = make_case(ComponentConfig("naive"), case.grid)
    peaks = peaks_in_fresh_process("dense", case, settings, backward=False)
    if peaks["forward"] is None:
        pytest.skip("needs the memory counters of Linux")
    mask = 2048 * (8 + 2048)
    # As bool and as float32; queries, keys and outputs beside it outweigh the pages that Linux counts late.
    assert 5 * mask <= peaks["forward"] <= 7.5 * mask
    assert peaks["forward_backward"] is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_rehearsal_on_a_gpu(bench: Bench) -> None:
    code, output, record = bench("attention=swin_ar", "--device", "cuda")
    assert code == 0, output
    assert record["hardware"]["gpu"]
    assert record["cases"][0]["methods"]["tiled"]["peak_memory_bytes"]["forward"] > 0
