"""The decodings conform, and the conformance suite catches those that do not, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cogvid import UserError
from cogvid.generation import tokens as generation
from cogvid.generation.schedule import Along, shortest_schedule
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Dependencies, Rows
from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import ConformanceError, decoding_cases, decoding_conformance
from cogvid.testing.cache import OneAtATime
from cogvid.testing.decoding_cases import DecodingCase
from cogvid_plugins.decoding.fixed_point import FixedPoint

REGISTERED = [info.name for info in create_plugin_manager().components() if info.kind == "decoding"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", REGISTERED)
def test_every_decoding_conforms(name: str) -> None:
    decoding_conformance(name)


@pytest.mark.parametrize("window", [1, 3, 9])
def test_windows_of_any_size_conform(window: int) -> None:
    decoding_conformance("fixed_point", {"window": window}, cases=12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=st.integers(24, 10**6).map(DecodingCase.draw), window=st.integers(1, 9))
def test_any_predicate_is_decoded_exactly(case: DecodingCase, window: int) -> None:
    one_by_one = case.tokens(OneAtATime(), CPU)
    assert torch.equal(case.tokens(Along(), CPU), one_by_one)
    assert torch.equal(case.tokens(FixedPoint(FixedPoint.Config(window=window)), CPU), one_by_one)


@pytest.mark.parametrize("decoding", [Along(), FixedPoint()], ids=["scheduled", "fixed_point"])
def test_passes_laid_out_for_a_compiler_give_the_same_tokens(
    decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [DecodingCase.draw(seed) for seed in range(24)]
    plain = [case.tokens(decoding, CPU) for case in cases]
    # The layout of such passes is what is in question here: compiling each of them would take minutes.
    monkeypatch.setattr(generation, "_compiled", lambda device: generation._compute)
    monkeypatch.setattr(decoding_cases, "generate_tokens", partial(generation.generate_tokens, compile=True))
    for case, expected in zip(cases, plain, strict=True):
        assert torch.equal(case.tokens(decoding, CPU), expected), case


def test_the_cases_are_of_every_sort() -> None:
    cases = [DecodingCase.draw(seed) for seed in range(24)]
    patterns = [case.pattern for case in cases if case.pattern is not None]
    assert {case.sampling for case in cases} >= {"temperature 1", "temperature 0", "top-p 0.8", "clusters"}
    assert any("guidance" in case.sampling for case in cases)
    assert {case.stage for case in cases} == {"sequential", "interpolation"}
    assert len(patterns) < len(cases)
    assert {0, 100} < {pattern.share for pattern in patterns if not pattern.parts}
    assert {pattern.bias for pattern in patterns} == {case.rotary for case in cases} == {False, True}
    assert any(pattern.parts for pattern in patterns)
    assert {case.batch > 1 for case in cases} == {case.known > 0 for case in cases} == {False, True}


class Wrapped(Decoder):
    """The shortest schedule, and then something else."""

    def __init__(self, clips: Clips, change: Callable[[Wrapped, Rows | None], Rows | None]) -> None:
        self.clips, self.change = clips, change
        self.inner = Along().start(clips)
        self.passes, self.before = 0, Rows(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))

    def next_rows(self) -> Rows | None:
        rows = self.change(self, self.inner.next_rows())
        self.passes += 1
        self.before = rows or self.before
        return rows

    def final(self) -> Tensor:
        return torch.ones(len(self.before.slots), dtype=torch.bool)


class Broken(Decoding):
    """The shortest schedule, each pass changed."""

    def __init__(self, change: Callable[[Wrapped, Rows | None], Rows | None]) -> None:
        super().__init__()
        self.change = change

    def start(self, clips: Clips) -> Decoder:
        return Wrapped(clips, self.change)


class Endless(Broken):
    """Never sure of anything."""

    def __init__(self) -> None:
        super().__init__(lambda self, rows: rows or self.before)

    def start(self, clips: Clips) -> Decoder:
        decoder = super().start(clips)
        decoder.final = lambda: torch.zeros(len(decoder.before.slots), dtype=torch.bool)  # type: ignore
        return decoder


class Mute(Broken):
    """Says nothing of what is final."""

    def __init__(self) -> None:
        super().__init__(lambda self, rows: rows)

    def start(self, clips: Clips) -> Decoder:
        decoder = super().start(clips)
        decoder.final = lambda: torch.ones(0)  # type: ignore[method-assign]
        return decoder


class Hasty(Along):
    """All frames at once: what is not there yet is not seen."""

    def schedule(self, needs: Dependencies) -> Tensor:
        return shortest_schedule(torch.full_like(needs.reach, -1), needs.known)


class HastyAndSaysSo(Hasty):
    exact = False


def again(self: Wrapped, rows: Rows | None) -> Rows | None:
    """Every other pass repeats the one before."""
    return self.before if self.passes == 1 else rows


def with_known(self: Wrapped, rows: Rows | None) -> Rows | None:
    known, n = self.clips.needs.known, self.clips.needs.grid.frame_tokens
    if rows is None or True not in known:
        return rows
    return Rows(rows.samples, torch.full_like(rows.slots, known.index(True) * n))


def doubled(self: Wrapped, rows: Rows | None) -> Rows | None:
    return rows and Rows(rows.samples.repeat(2), rows.slots.repeat(2))


def too_far(self: Wrapped, rows: Rows | None) -> Rows | None:
    return rows and Rows(rows.samples, rows.slots + self.clips.needs.grid.tokens)


def other_numbers(self: Wrapped, rows: Rows | None) -> Rows | None:
    return rows and Rows(rows.samples.int(), rows.slots)


def of_no_row(self: Wrapped, rows: Rows | None) -> Rows | None:
    return rows and Rows(rows.samples[:0], rows.slots[:0])


def without_the_last(self: Wrapped, rows: Rows | None) -> Rows | None:
    return None if self.passes else rows


def overwriting(self: Wrapped, rows: Rows | None) -> Rows | None:
    self.clips.tape[:, -1, -1] = 0
    self.clips.tape[:, 0, 1:] = 0
    return rows


def without_begin(self: Wrapped, rows: Rows | None) -> Rows | None:
    self.clips.tape[:, :, 0] = 1
    return rows


def raising(self: Wrapped, rows: Rows | None) -> Rows | None:
    raise IndexError("one slot too far\nand some details")


BROKEN: dict[str, tuple[Decoding, set[str], str]] = {
    "endless": (Endless(), {"ends"}, r"does not end: \d+ passes, and clip 0, frame \d, token \d is not final"),
    "mute": (Mute(), {"rows"}, r"what is final is float32 \(0,\) on cpu, not bool \(\d+,\) on the CPU"),
    "hasty": (Hasty(), {"tokens"}, r"clip \d, frame \d, token \d is \d+ and should be \d+; so are \d+ of \d+"),
    "twice": (Broken(again), {"once"}, r"pass 1 computes clip 0, frame \d, token 0, which is final"),
    "known frames": (Broken(with_known), {"rows"}, r"pass 0 computes frame 0, which is known"),
    "rows that are one": (Broken(doubled), {"rows"}, r"pass 0 computes clip 0, frame \d, token 0 twice"),
    "beyond the clip": (Broken(too_far), {"rows"}, r"slots are between \d+ and \d+, not below \d+"),
    "other numbers": (Broken(other_numbers), {"rows"}, r"samples are int32 \(\d+,\) on cpu, not int64"),
    "no row": (Broken(of_no_row), {"rows"}, r"pass 0 has none"),
    "too few": (Broken(without_the_last), {"ends"}, r"clip 0, frame \d, token \d is not final after the last pass"),
    "overwritten": (Broken(overwriting), {"kept"}, r"clip 0, frame \d, token \d is overwritten "),
    "no begin": (
        Broken(without_begin),
        {"kept"},
        r"clip 0, frame 0, begin-of-image token is overwritten before pass 0",
    ),
    "raises": (Broken(raising), {"ends"}, r"raises IndexError: one slot too far"),
}


@pytest.mark.parametrize(("decoding", "checks", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_decoding_fails_with_the_first_case_and_what_is_wrong(
    decoding: Decoding, checks: set[str], problem: str
) -> None:
    with pytest.raises(ConformanceError) as caught:
        decoding_conformance(decoding, cases=12)
    assert checks <= caught.value.failures.keys()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{type(decoding).__name__} does not conform: ")
    case = r"\w+, grid \dx\dx\d, case \d+, .*batch \d, \d+ codes, layers \d, .*: "
    assert any(re.match(rf"  {next(iter(checks))}: {case}{problem}", line) for line in lines)


def test_what_a_slot_sees_decides_its_token_in_many_cases() -> None:
    with pytest.raises(ConformanceError) as caught:
        decoding_conformance(Hasty())
    assert len(caught.value.failures["tokens"]) > 8


def test_an_approximation_that_says_so_conforms() -> None:
    decoding_conformance(HastyAndSaysSo())


def test_what_a_decoding_raises_is_the_cause() -> None:
    with pytest.raises(ConformanceError) as caught:
        decoding_conformance(Broken(raising), cases=1)
    assert isinstance(caught.value.__cause__, IndexError)


def test_a_decoding_that_cannot_run_says_so_itself() -> None:
    def refuses(self: Wrapped, rows: Rows | None) -> Rows | None:
        raise UserError("needs another device")

    with pytest.raises(UserError, match="needs another device"):
        decoding_conformance(Broken(refuses))


@pytest.mark.parametrize("arguments", [{"options": {}}, {"plugins": ["x"]}], ids=str)
def test_options_go_with_a_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="go with the name"):
        decoding_conformance(Along(), **arguments)
