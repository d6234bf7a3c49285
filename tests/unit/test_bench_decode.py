"""`cogvid bench decode`: ways to generate a clip are timed only if they agree, and recorded whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cogvid import Grid
from cogvid.bench import concatenated, decode
from cogvid.bench.concatenated import ConcatenatedCache, concatenated_error
from cogvid.bench.decode import DecodeResult, check
from cogvid.bench.decode_cases import DECODINGS, SIZES, DecodeCase, DecodeSettings, default_cases, random_model
from cogvid.bench.decode_report import summary
from cogvid.config.schema import ComponentConfig
from cogvid.model.transformer import CogVideoTransformer

Bench = Callable[..., tuple[int, str, Any]]
NAIVE = DecodeCase(SIZES["tiny"], ComponentConfig("naive"), Grid(3, 3, 4))
LOCAL = ("attention=local3d", "attention.options.extent=[2,2,2]")


@pytest.fixture
def bench(run_bench: Bench) -> Bench:
    return partial(run_bench, "decode")


def test_a_rehearsal_of_the_standard_cases_checks_times_records_and_draws(bench: Bench) -> None:
    code, output, record = bench()
    assert code == 0, output
    assert record.keys() == {
        *("benchmark", "rehearsal", "date", "hardware", "versions", "arguments", "protocol"),
        *("read_bandwidth", "cases"),
    }
    assert (record["benchmark"], record["rehearsal"], record["arguments"]["repeats"]) == ("decode", True, 1)
    assert [case["attention"]["name"] for case in record["cases"]] == ["naive", "local3d", "swin_ar"]
    for case in record["cases"]:
        full = case["attention"]["name"] == "naive"
        passes, computed = case["passes"], case["computed_for_each_kept"]
        assert passes.keys() == computed.keys() == case["equal_tokens"].keys() == set(DECODINGS)
        assert passes["sequential"] == case["slots"] == 60 >= passes["scheduled"] >= passes["fixed_point"]
        assert computed["sequential"] == computed["scheduled"] == 1 <= computed["fixed_point"]
        # In float32 the ways round differently; the check compares them in float64.
        assert min(case["equal_tokens"].values()) > 0.9
        assert case["seconds"].keys() == {*DECODINGS, "guided"}
        assert case["sequential_over_reading"] > 0
        for way, seconds in case["seconds"].items():
            assert case["seconds_of_rounds"][way] == [seconds]
        for name, ratio in case["speed_up"].items():
            assert ratio == pytest.approx(case["seconds"]["sequential"] / case["seconds"][name])
        assert case["guided_over_plain"] > 0
        assert case["recomputed_over_cached"] > 0
        assert case["last_over_second_frame"] > 0
        assert len(case["s_per_token_by_frame"]["sequential"]) == 3
        assert len(case["concatenated_over_sequential_by_frame"]) == (3 if full else 0)
    assert Path("results/out.png").read_bytes().startswith(b"\x89PNG")
    assert "tiny, 3x4x5 swin_ar, window 5x5" in output


def test_a_decoding_that_is_too_hasty_is_refused_unless_it_says_so(bench: Bench, hasty: Path) -> None:
    said, honest = [*LOCAL, f"plugins=[{hasty}]", "--decoding", "scheduled,hasty"], hasty.read_text()
    hasty.write_text(honest.replace("exact = False", "exact = True"))
    code, output, record = bench(*said)
    assert code == 1
    assert "Error: Not timed, because the check failed: tiny, 3x4x5 local3d, extent 2x2x2: hasty gives" in output
    assert not record
    hasty.write_text(honest)
    code, output, record = bench(*said)
    assert code == 0, output
    assert "hasty, approximate: 20 passes" in output
    (case,) = record["cases"]
    assert case["approximate"] == ["hasty"]
    assert case["equal_tokens"]["scheduled"] > case["equal_tokens"]["hasty"]


def test_a_failed_check_leaves_the_cases_before_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: DecodeCase, decodings: object) -> None:
        if case.component.name == "local3d":
            raise AssertionError("not today")

    monkeypatch.setattr(decode, "check", wrong)
    code, output, record = bench()
    assert code == 1
    assert "tiny, 3x4x5 local3d, extent 3x3x3: not today." in output
    assert [case["attention"]["name"] for case in record["cases"]] == ["naive"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "quikstart"], "Did you mean 'quickstart'"),
        (["attention=naiv"], "Did you mean 'naive'"),
        (["--decoding", "scheduled,fixpoint"], "Did you mean 'fixed_point'"),
        (["--grid", "5x21x20"], "No standard case has this size and grid"),
        (["--size", "tiny"], "No standard case has this size and grid"),
        (["video.frames=3"], "video belongs to an experiment"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_mistake_shows_before_anything_is_measured(bench: Bench, words: list[str], said: str) -> None:
    code, output, record = bench(*words)
    assert code == 1
    assert output.startswith("Error: ")
    assert said in output
    assert output.count("Error") == 1
    assert not record


def test_the_standard_cases_can_be_built() -> None:
    for device, number in (("cpu", 10), ("cuda", 5)):
        cases = default_cases(device)
        assert len({case.name for case in cases}) == len(cases) == number
        for case in cases:
            case.backend()


def vivid() -> CogVideoTransformer:
    model = random_model(NAIVE, NAIVE.backend()).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def codes() -> Tensor:
    return torch.randint(64, (2, 3, 12), generator=torch.Generator().manual_seed(0))


def test_the_concatenated_cache_gives_the_logits_of_the_whole_sequence() -> None:
    assert concatenated_error(vivid(), codes()) < 1e-9


@pytest.mark.parametrize("channel", ["base", "plus"])
def test_a_concatenated_cache_that_sees_other_slots_is_refused(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(ConcatenatedCache, channel)

    def wrong(self: ConcatenatedCache, layer: int, q: Tensor, k: Tensor, v: Tensor, *bias: Any) -> Tensor:
        # The base channel sees the slot before its own frame, the plus channel one slot twice.
        actual = self.slots
        if channel == "base" and not self.text and actual >= NAIVE.grid.frame_tokens:
            self.slots = actual % NAIVE.grid.frame_tokens + 1
        elif channel == "plus" and not self.text:
            kept = self.kept[layer][1]
            kept[:] = [torch.cat([x, x[:, :, -1:]], dim=2) for x in kept]
        result: Tensor = right(self, layer, q, k, v, *bias)
        self.slots = actual
        return result

    monkeypatch.setattr(concatenated.ConcatenatedCache, channel, wrong)
    assert concatenated_error(vivid(), codes()) > 1e-3
    with pytest.raises(AssertionError, match="concatenated cache gives other logits"):
        check(NAIVE)


def test_skipped_slots_take_the_place_of_generated_ones() -> None:
    with torch.inference_mode():
        cache = ConcatenatedCache(vivid(), torch.zeros(2, 8, dtype=torch.long))
        cache.skip(17)
        assert cache.step(torch.zeros(2, 1, dtype=torch.long)).shape == (2, 64)
    assert cache.slots == 18
    assert {x.shape[2] for layer in cache.kept for channel in layer for x in channel} == {8 + 18}


def test_a_total_leaves_the_hiccups_of_each_round_out() -> None:
    result = DecodeResult(NAIVE, 36, (3, 1), computed={"sequential": 1.0, "scheduled": 1.0})
    steady, hiccup = [1.0] * 36, [2.0] * 35
    result.rounds = {
        "sequential": [[9.0, *hiccup], [2.0] * 12 + steady[12:]],
        "scheduled": [[1.0] * 18, [1.0] * 17 + [5.0]],
        "recomputed": [[4.0, 5.0, 9.0], [9.0, 5.0, 6.0]],
    }
    (record,) = summary([result], 6.0)
    assert record["seconds"] == {"sequential": 48.0, "scheduled": 18.0}
    assert record["seconds_of_rounds"]["sequential"] == [79.0, 48.0]
    assert record["passes"] == {"sequential": 36, "scheduled": 18}
    assert record["speed_up"] == pytest.approx({"sequential": 1, "scheduled": 48 / 18})
    assert record["over_scheduled"] == pytest.approx({"sequential": 48 / 18, "scheduled": 1})
    assert record["sequential_over_reading"] == pytest.approx(48 / 36 * 6 / 4)
    assert record["s_per_token_by_frame"] == {"sequential": [2.0, 1.0, 1.0], "recomputed": [4.0, 5.0, 6.0]}
    assert record["last_over_second_frame"] == 1.0
    assert record["recomputed_over_cached"] == pytest.approx(5 * 36 / 48)
    assert record["guided_over_plain"] is None


@pytest.mark.parametrize(("small", "rounds"), [((), 1), (("tiny",), 3)])
def test_long_clips_have_fewer_ways_and_with_large_models_one_round(
    monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...], rounds: int
) -> None:
    monkeypatch.setattr(decode, "_SHORT", 2)
    monkeypatch.setattr(decode, "_SMALL", small)
    measured = decode.run_case(NAIVE, DecodeSettings(repeats=3), lambda _: None).rounds
    assert {way: len(each) for way, each in measured.items()} == dict.fromkeys(DECODINGS, rounds)
