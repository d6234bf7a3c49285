"""Quality against cost, of training or of generation: what a variant costs, and which ones no other beats in both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from cogvid.compare.charts import SHARED, TEXT, Chart, chart_axes, colour, inline_svg
from cogvid.compare.comparison import Column, Comparison, Row
from cogvid.compare.read import TRAINING_STAGES, RunRecord, Stage


@dataclass(frozen=True)
class Compute:
    """What runs took, in one measure that is recorded in all of them.

    Attributes:
        title: of the axis.
        about: why this measure.
        values: of each run of each variant, by label.
    """

    title: str
    about: str
    values: dict[str, tuple[float, ...]]


def compute(variants: Sequence[Row]) -> Compute | None:
    """Seconds where all runs trained on equal hardware without interruption, else parameters times samples; None where
    runs recorded neither. Runs that trained nothing, or not to the end, are left out."""
    trained = {row.label: [run for run in row.runs if _trained(run)] for row in variants}
    runs = [run for found in trained.values() for run in found]
    stages = [stage for run in runs for stage in _trained(run)]
    if not runs:
        return None
    whole = all(stage.summary.get("seconds") and not stage.summary.get("resumed") for stage in stages)
    hardware = {_hardware(run) for run in runs}
    if whole and len(hardware) == 1 and hardware != {()}:
        seconds = {
            label: [sum(s.summary["seconds"] for s in _trained(run)) for run in found]
            for label, found in trained.items()
        }
        longest = max(max(values, default=0) for values in seconds.values())
        unit, size = ("hours", 3600) if longest > 7200 else ("minutes", 60) if longest > 120 else ("seconds", 1)
        about = "Training time of all stages, on equal hardware; shared stages count in full."
        return Compute(
            f"training time, {unit}", about, {k: tuple(v / size for v in found) for k, found in seconds.items()}
        )
    samples = {label: [_samples(run) for run in found] for label, found in trained.items()}
    if any(value is None for found in samples.values() for value in found):
        return None
    about = "The runs recorded no comparable times, so compute is parameters times samples seen, over all stages."
    return Compute("parameters times samples", about, {k: tuple(v for v in found if v) for k, found in samples.items()})


def generation_time(comparison: Comparison) -> Compute | None:
    """Milliseconds a token, where variants differ in how they generate, and all did on equal hardware; else None."""
    runs = [run for row in comparison.variants for run in row.runs if _speed(run)]
    hardware = {_hardware(run) for run in runs}
    if len(hardware) != 1 or hardware == {()} or not any(key.startswith("generation.") for key in comparison.config):
        return None
    values = {row.label: tuple(1000 / _speed(run) for run in row.runs if _speed(run)) for row in comparison.variants}
    about = "Time of generation by token, in batches of the configured size, on equal hardware; not side by side."
    return Compute("generation time, milliseconds a token", about, values)


def _speed(run: RunRecord) -> float:
    return run.speed.get("tokens_per_second", 0.0)


def _hardware(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """What times depend on."""
    about = run.environment.items()
    return tuple(sorted((k, str(v)) for k, v in about if k.startswith("hardware.") and k != "hardware.memory_gib"))


def _samples(run: RunRecord) -> float | None:
    """Parameters times samples seen, over all stages; None where the run does not say."""
    total = 0.0
    for stage in _trained(run):
        factors = (
            stage.summary.get("parameters"),
            stage.summary.get("steps"),
            run.config.get(f"stages.{stage.name}.batch_size"),
        )
        if not all(factors):
            return None
        total += math.prod(factor for factor in factors if factor)
    return total


def _trained(run: RunRecord) -> list[Stage]:
    """The trained stages of a run that came to its end."""
    stages = [run.stages[name] for name in TRAINING_STAGES if name in run.stages]
    return stages if all(stage.finished for stage in stages) else []


@dataclass(frozen=True)
class Frontier:
    """Quality against one cost.

    Attributes:
        cost: in a word.
        taken: what it was.
        charts: one of each column.
    """

    cost: str
    taken: Compute
    charts: list[Chart]


def frontiers(comparison: Comparison, columns: Sequence[Column]) -> list[Frontier]:
    """Each column that has a direction against each cost, with the line of the variants that none beats in both."""
    costs = {"compute": compute(comparison.variants), "generation time": generation_time(comparison)}
    found = [Frontier(name, taken, _charts(comparison, columns, name, taken)) for name, taken in costs.items() if taken]
    return [frontier for frontier in found if frontier.charts]


def _charts(comparison: Comparison, columns: Sequence[Column], cost: str, taken: Compute) -> list[Chart]:
    charts = []
    for column in columns:
        rows = [row for row in comparison.variants if column.key in row.cells and taken.values.get(row.label)]
        if column.better and column.group != "cost" and len(rows) > 1:
            charts.append(Chart(f"{column.title} against {cost}", _frontier_svg(comparison, column, rows, taken)))
    return charts


def _frontier_svg(comparison: Comparison, column: Column, rows: Sequence[Row], taken: Compute) -> str:
    with chart_axes(column.key, taken.title, "") as (axes, file):
        best: list[tuple[float, float]] = []
        for row in rows:
            cell, costs = row.cells[column.key], taken.values[row.label]
            x, y = statistics.fmean(costs), cell.mean
            best.append((x, y))
            low, high = cell.interval or ((y - cell.error, y + cell.error) if cell.error else (y, y))
            across, up = [[x - min(costs)], [max(costs) - x]], [[y - low], [high - y]]
            axes.errorbar(x, y, xerr=across, yerr=up, fmt="o", color=colour(row), ms=6, lw=1.2, capsize=2)
            axes.annotate(
                row.label, (x, y), (7, 5), textcoords="offset points", color=TEXT, fontsize=9, parse_math=False
            )
        sign = 1 if column.better == "lower" else -1
        front: list[tuple[float, float]] = []
        for x, y in sorted(best, key=lambda point: (point[0], sign * point[1])):
            if not front or sign * y < sign * front[-1][1]:
                front.append((x, y))
        axes.plot(*zip(*front, strict=True), color=TEXT, lw=1, ls=(0, (3, 3)), alpha=0.5, zorder=0)
        axes.margins(x=0.25, y=0.2)
        _bounds(axes, comparison, column)
    return inline_svg(file)


def _bounds(axes: Axes, comparison: Comparison, column: Column) -> None:
    """Bounds as level lines, those alone that do not press the variants into a line themselves."""
    low, high = axes.get_ylim()
    near = (low - (high - low), high + (high - low))
    drawn: list[float] = []
    for row in comparison.bounds:
        cell = row.cells.get(column.key)
        if cell and near[0] <= cell.mean <= near[1]:
            axes.axhline(cell.mean, color=SHARED, lw=0.9, ls=":")
            # One name where two lines are too near to each other for two.
            if all(abs(cell.mean - other) > 0.12 * (high - low) for other in drawn):
                place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
                axes.annotate(
                    row.label, (1, cell.mean), (-2, 2), ha="right", color=SHARED, fontsize=9, parse_math=False, **place
                )
                drawn.append(cell.mean)
