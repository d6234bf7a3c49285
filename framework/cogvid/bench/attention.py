"""`cogvid bench attention`: check every method on every case, then time those that are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch

from cogvid.attention.compact import compact_mask
from cogvid.bench.cases import AttentionCase, AttentionSettings, Problem
from cogvid.bench.check import Deviation, Reference, infer, train_step
from cogvid.bench.measure import DoesNotFitError, Times, time_rounds
from cogvid.bench.memory import Peaks, peaks_in_fresh_process, peaks_of
from cogvid.bench.methods import Compute, Method, find_method, runner
from cogvid.errors import UserError
from cogvid.plugins.manager import PluginManager

PASSES = ("forward", "forward_backward")
NOT_ASKED = "not asked for"
Say = Callable[[str], None]
# What keeps one method from running, and no other.
_CANNOT = (UserError, DoesNotFitError, torch.OutOfMemoryError)


@dataclass
class Result:
    """Of one method on one case.

    Attributes:
        other_mask: in words, the mask it computes instead of the pattern's; None if it is the same.
        skipped: why it was not timed.
        wrong: whether it was not timed because it is not what it claims to be.
        forward_only: why there is no backward pass.
        deviations: the largest over the layers, by result.
        times: by pass, mean over the layers.
        peaks: bytes by pass, the largest over the layers.
    """

    other_mask: str | None = None
    skipped: str | None = None
    wrong: bool = False
    forward_only: str | None = None
    deviations: dict[str, Deviation] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)
    peaks: Peaks = field(default_factory=dict)


@dataclass
class CaseResult:
    """Of all methods on one case.

    Attributes:
        options: of the case's backend, defaults too.
        layers: whose masks were measured, each distinct one once.
        pairs: visible pairs of frame slots, mean over the layers.
        checked_whole: whether the check compared every query.
        methods: by name.
    """

    case: AttentionCase
    options: dict[str, Any]
    layers: list[int]
    pairs: float
    checked_whole: bool
    methods: dict[str, Result]

    @property
    def wrong(self) -> list[str]:
        """Methods that failed their check."""
        return [name for name, result in self.methods.items() if result.wrong]

    def ratio(self, name: str, step: str) -> float | None:
        """The median time of a method, as a share of the dense method's."""
        times, dense = self.methods[name].times, self.methods["dense"].times if "dense" in self.methods else {}
        return times[step].median / dense[step].median if step in times and step in dense else None


def run_case(case: AttentionCase, names: Sequence[str], settings: AttentionSettings, say: Say) -> CaseResult:
    """Check, time and weigh the methods on one case.

    Args:
        case, settings: what to run.
        names: of the methods.
        say: called with what is going on.
    """
    manager = case.manager()
    results = {name: Result() for name in names}
    methods: dict[str, Method] = {}
    for name in names:
        with _recorded(results[name]):
            methods[name] = find_method(name, case, manager)
            results[name].other_mask = methods[name].other_mask
    masks, layers = [], []
    for problem in case.problems(manager, settings):
        masks.append(problem.mask)
        layers.append(_run_layer(f"{case.name}, layer {problem.mask.layer}", problem, methods, results, say))
    for name, result in results.items():
        if result.skipped is None:
            result.times = _mean([layer.times[name] for layer in layers])
            say(f"{case.name}: memory of {name}")
            result.peaks = _peaks(methods[name], case, manager, settings, result.forward_only is None)
    pairs = fmean(compact_mask(mask).pairs for mask in masks)
    # As given where they are: a pattern that a backend runs is an object by now.
    options = {**vars(case.backend(manager).config), **case.component.options}
    whole = all(layer.whole for layer in layers)
    return CaseResult(case, options, [mask.layer for mask in masks], pairs, whole, results)


@dataclass(frozen=True)
class _Layer:
    """Times by method and pass, and whether the check compared every query."""

    times: dict[str, dict[str, Times]]
    whole: bool


def _run_layer(
    title: str, problem: Problem, methods: Mapping[str, Method], results: Mapping[str, Result], say: Say
) -> _Layer:
    """Check and time the methods on one layer; what cannot run, or is wrong, is marked in its result."""
    say(f"{title}: reference")
    reference = Reference(problem)
    runs = {}
    for name, method in methods.items():
        if results[name].skipped is None:
            say(f"{title}: checking {name}")
            with _recorded(results[name]):
                runs[name] = _checked(method, problem, reference, results[name])
    say(f"{title}: timing {', '.join(runs)}")
    return _Layer(_times(runs, problem, results), reference.whole)


@contextmanager
def _recorded(result: Result) -> Iterator[None]:
    """What keeps a method from running is its result."""
    try:
        yield
    except _CANNOT as error:
        result.skipped = f"out of memory: {error}" if isinstance(error, torch.OutOfMemoryError) else str(error)


def _checked(method: Method, problem: Problem, reference: Reference, result: Result) -> Compute:
    """The method, laid out for a problem, after its check.

    Raises:
        UserError: it cannot run here, or what it computes is not what the mask says.
    """
    run = method.prepare(problem)
    infer(run, problem)
    if problem.settings.forward_only:
        result.forward_only = NOT_ASKED
    else:
        try:
            train_step(run, problem)
        except UserError as error:
            result.forward_only = str(error)
    if method.other_mask is None:
        found = list(reference.deviations(run, backward=result.forward_only is None))
        for new in found:
            old = result.deviations.get(new.name, new)
            result.deviations[new.name] = max(old, new, key=lambda each: each.error / each.allowed)
        bad = [each for each in found if each.wrong]
        if bad:
            result.wrong = True
            errors = ", ".join(f"{each.name} off by {each.error:.2g}, allowed {each.allowed:.2g}" for each in bad)
            raise UserError(f"not what the mask says in layer {problem.mask.layer}: {errors}")
    return run


def _times(runs: Mapping[str, Compute], problem: Problem, results: Mapping[str, Result]) -> dict[str, dict[str, Times]]:
    """By method and pass."""
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, run in runs.items():
        calls[name, PASSES[0]] = partial(infer, run, problem)
        if results[name].forward_only is None:
            calls[name, PASSES[1]] = partial(train_step, run, problem)
    # In the order of passes, so that the methods' forward passes follow each other, then their backward passes.
    ordered = {f"{name} {step}": calls[name, step] for step in PASSES for name in runs if (name, step) in calls}
    settings = problem.settings
    times = time_rounds(ordered, settings.repeats, settings.round_seconds, problem.device)
    return {name: {step: times[f"{name} {step}"] for step in PASSES if (name, step) in calls} for name in runs}


def _mean(layers: Sequence[Mapping[str, Times]]) -> dict[str, Times]:
    return {
        step: Times(fmean(layer[step].median for layer in layers), fmean(layer[step].min for layer in layers))
        for step in layers[0]
    }


def _peaks(
    method: Method, case: AttentionCase, manager: PluginManager, settings: AttentionSettings, backward: bool
) -> Peaks:
    if settings.device == "cpu":
        return peaks_in_fresh_process(method.name, case, settings, backward)
    layers = [peaks_of(method.prepare, problem, backward) for problem in case.problems(manager, settings)]
    return {step: max((layer[step] or 0 for layer in layers), default=0) or None for step in PASSES}


def tune(case: AttentionCase, names: Sequence[str], settings: AttentionSettings, say: Say) -> dict[str, Any]:
    """Let the methods that can choose how their kernels are launched do so on a case; what they chose, by name.

    Such a backend has a method `tune(mask, heads, head_size, dtype, text)`, which keeps the choice by itself.
    """
    manager: PluginManager = case.manager()
    chosen: dict[str, Any] = {}
    problem = next(case.problems(manager, settings))
    for name in names:
        try:
            tuner = getattr(runner(name, case, manager), "tune", None)
        except UserError:
            continue
        if tuner is not None:
            say(f"{case.name}: tuning {name}")
            choice = tuner(problem.mask, settings.heads, settings.head_size, problem.dtype, settings.text)
            chosen[name] = asdict(choice) if is_dataclass(choice) and not isinstance(choice, type) else str(choice)
    return chosen
