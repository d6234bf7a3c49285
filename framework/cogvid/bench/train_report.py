"""The results of `cogvid bench train` as JSON and in words, beside what is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from cogvid.bench.data_report import Target
from cogvid.bench.train import TrainResult
from cogvid.bench.train_phases import PHASES
from cogvid.bench.train_processes import ProcessesResult

_WAYS = {"training": "steps", "bare": "bare"}
# Of the speed of as many threads, that processes should reach.
_PROCESSES = 0.9
_GIGA = 1e9


def train_json(one: TrainResult) -> dict[str, Any]:
    """A case as plain data; seconds and FLOPs."""
    return {
        "name": one.case.name,
        "experiment": one.case.experiment,
        "changes": one.case.changes,
        "stage": one.case.stage,
        "batch_size": one.batch_size,
        "steps": len(one.steps),
        "flops": {"needed": one.flops.total, **asdict(one.flops)},
        "flops_run": {"layers": one.computed[0], "attention_tiles": one.computed[1], "optimizer": one.optimizer},
        "peak_flops_per_s": {"median": one.peak_flops / one.large.median, "best": one.peak_flops / one.large.min},
        "layers_alone_s": asdict(one.alone),
        **{way: _way(one, steps) for way, steps in _WAYS.items()},
        "training_rest_s": _rest(one),
    }


def _way(one: TrainResult, way: str) -> dict[str, Any]:
    whole = one.seconds(way)
    share, more = one.share(way), one.share(way, optimizer=True)
    return {
        "step_s": asdict(whole),
        "sequences_per_s": one.batch_size / whole.median,
        "phases_s": {phase: asdict(one.seconds(way, phase)) for phase in PHASES},
        "share_of_peak": {"median": share.median, "best": share.min},
        "share_of_peak_with_optimizer": {"median": more.median, "best": more.min},
    }


def _rest(one: TrainResult) -> dict[str, float]:
    """Mean seconds of what callbacks do in a step, the longest first."""
    names = {name for step in one.steps for name in step.other}
    means = {name: fmean(step.other.get(name, 0.0) for step in one.steps) for name in names}
    return dict(sorted(means.items(), key=lambda item: -item[1])[:8])


def train_lines(one: TrainResult) -> list[str]:
    """One case in words; the first line is its name."""
    found = [
        f"{one.case.name}: {one.case.stage} stage, batch {one.batch_size}",
        f"  a step needs {one.flops.total / _GIGA:.2f} GFLOP, {one.flops.attention / one.flops.total:.0%} of it for "
        f"visible pairs; run are {sum(one.computed) / _GIGA:.2f}, and {one.optimizer / _GIGA:.2f} by the optimiser",
        f"  the peak is {one.peak_flops / one.large.median / _GIGA:.1f} GFLOP/s; the layers' products by themselves "
        f"reach {one.computed[0] / one.alone.median / _GIGA:.1f}, {one.alone.median * 1e3:.1f} ms a step",
    ]
    for way, steps in _WAYS.items():
        whole, share = one.seconds(steps), one.share(steps)
        parts = ", ".join(f"{phase} {one.seconds(steps, phase).median * 1e3:.1f}" for phase in PHASES)
        found.append(
            f"  {way:8} {one.batch_size / whole.median:.2f} sequences/s, {whole.median * 1e3:.1f} ms a step ({parts}): "
            f"{share.median:.3f} of the peak, at best {share.min:.3f}"
        )
    return found


def processes_json(one: ProcessesResult) -> dict[str, Any]:
    """Processes beside threads as plain data."""
    return {
        "name": one.case.name,
        "processes": one.count,
        "batch_size": one.batch_size,
        "processes_step_s": one.many,
        "threads_step_s": one.one,
        "ratio": one.ratio,
    }


def processes_lines(one: ProcessesResult) -> list[str]:
    """The same in words."""
    return [
        f"{one.case.name}: {one.count} processes of one thread are {one.ratio:.2f} times as fast as one process of "
        f"{one.count} threads"
    ]


def targets(results: Sequence[TrainResult], shared: Sequence[ProcessesResult]) -> list[Target]:
    """All that has a limit and was measured."""
    found = [
        Target(f"{one.case.name}: share of the matmul peak", one.share("steps").median, one.case.target)
        for one in results
        if one.case.target is not None
    ]
    return found + [
        Target(f"{one.case.name}: {one.count} processes, times as fast as {one.count} threads", one.ratio, _PROCESSES)
        for one in shared
    ]
