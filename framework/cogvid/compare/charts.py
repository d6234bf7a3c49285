"""Curves and frontiers as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cogvid.compare.comparison import Column, Comparison, Row
from cogvid.compare.read import TRAINING_STAGES, RunRecord, Stage

# Of middle lightness, to be told apart on a light and on a dark page.
COLOURS = ("#4c8df5", "#e4753b", "#2fa37c", "#b467d6", "#c99a12", "#d9506b", "#3fa9bd", "#9a7d5c")
SHARED = "#8a8f98"
# Stands for the page's text colour, which only the browser knows.
_TEXT = "#010203"
_POINTS = 160

Points = tuple[tuple[int, float], ...]


@dataclass
class Chart:
    """A picture with its title, the sentence that a screen reader says, and what the reader must know."""

    title: str
    svg: str = ""
    about: str = ""


@dataclass
class _Curve:
    """The seeds of a variant, or of several that share a stage."""

    owners: list[Row] = field(default_factory=list)
    seeds: list[Points] = field(default_factory=list)

    @property
    def colour(self) -> str:
        return SHARED if len(self.owners) > 1 else colour(self.owners[0])


def colour(row: Row) -> str:
    """Of a variant; grey for what is none."""
    return SHARED if row.colour is None else COLOURS[row.colour % len(COLOURS)]


def curve_charts(variants: Sequence[Row]) -> list[Chart]:
    """Training and held-out loss of each stage: every seed a thin line, their mean a thick one."""
    charts = []
    for stage in TRAINING_STAGES:
        # A frame tokenizer is trained for more than the error that is held out.
        held_out = "held-out error" if stage == "tokenizer" else "held-out loss"
        for kind, points in (("training loss", _losses), (held_out, _held_out)):
            curves = _curves(variants, stage, points)
            if curves:
                title = f"{stage.replace('_', ' ')}: {kind}"
                charts.append(Chart(title, _curve_svg(curves, title, kind), _sharing(curves, len(variants))))
    return charts


def _losses(stage: Stage) -> Points:
    return stage.losses


def _held_out(stage: Stage) -> Points:
    return stage.held_out_losses


def _curves(variants: Sequence[Row], stage: str, points: Callable[[Stage], Points]) -> list[_Curve]:
    """Curves by the variants that own them: those that share all of a stage's runs share the lines."""
    owners: dict[str, dict[str, Row]] = {}
    found: dict[str, Points] = {}
    for row in variants:
        for run in row.runs:
            if stage in run.stages and points(run.stages[stage]):
                identity = run.stages[stage].identity
                owners.setdefault(identity, {})[row.label] = row
                found[identity] = points(run.stages[stage])
    curves: dict[tuple[str, ...], _Curve] = {}
    for identity, rows in owners.items():
        curve = curves.setdefault(tuple(rows), _Curve(list(rows.values())))
        curve.seeds.append(_thinned(found[identity]))
    return list(curves.values())


def _thinned(points: Points) -> Points:
    """At most `_POINTS` points, each the mean of its neighbours: what the eye would make of all of them."""
    size = -(-len(points) // _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return tuple((round(statistics.fmean(s for s, _ in g)), statistics.fmean(v for _, v in g)) for g in groups)


def _sharing(curves: Sequence[_Curve], variants: int) -> str:
    shared = [curve for curve in curves if len(curve.owners) > 1]
    if not shared:
        return ""
    if all(len(curve.owners) == variants for curve in shared):
        return "shared by all variants"
    return "; ".join("shared by " + ", ".join(row.label for row in curve.owners) for curve in shared)


def _curve_svg(curves: Sequence[_Curve], title: str, kind: str) -> str:
    with _axes(title, "step", kind.split()[-1]) as (axes, file):
        values: list[float] = []
        for curve in curves:
            few = max(map(len, curve.seeds)) < 12
            for points in curve.seeds:
                alone = len(curve.seeds) == 1
                steps, losses = zip(*points, strict=True)
                values += losses
                marker = "o" if few else "None"
                width, alpha = (1.5, 0.95) if alone else (0.7, 0.45)
                axes.plot(steps, losses, marker=marker, ms=3, color=curve.colour, lw=width, alpha=alpha)
            if len(curve.seeds) > 1:
                mean = _mean(curve.seeds)
                if len(mean):
                    axes.plot(mean[:, 0], mean[:, 1], color=curve.colour, lw=1.8)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
    return _inline(file)


def _mean(seeds: Sequence[Points]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Over seeds, where all of them have been: (points, 2)."""
    arrays = [np.array(points, dtype=float) for points in seeds]
    first, last = max(a[0, 0] for a in arrays), min(a[-1, 0] for a in arrays)
    steps = max(arrays, key=len)[:, 0]
    steps = steps[(steps >= first) & (steps <= last)]
    return np.stack([steps, np.mean([np.interp(steps, a[:, 0], a[:, 1]) for a in arrays], axis=0)], axis=1)


@dataclass(frozen=True)
class Compute:
    """What the training of runs took, in one measure that is recorded in all of them.

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
    runs recorded neither. Runs that trained nothing are left out."""
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
    return [run.stages[name] for name in TRAINING_STAGES if name in run.stages]


def frontier_charts(comparison: Comparison, columns: Sequence[Column]) -> list[Chart]:
    """Each column that has a direction against compute, with the line of the variants that none beats in both."""
    taken = compute(comparison.variants)
    if taken is None:
        return []
    charts = []
    for column in columns:
        rows = [row for row in comparison.variants if column.key in row.cells and taken.values.get(row.label)]
        if column.better and column.group != "cost" and len(rows) > 1:
            charts.append(Chart(f"{column.title} against compute", _frontier_svg(comparison, column, rows, taken)))
    return charts


def _frontier_svg(comparison: Comparison, column: Column, rows: Sequence[Row], taken: Compute) -> str:
    with _axes(column.key, taken.title, "") as (axes, file):
        best: list[tuple[float, float]] = []
        for row in rows:
            cell, costs = row.cells[column.key], taken.values[row.label]
            x, y = statistics.fmean(costs), cell.mean
            best.append((x, y))
            low, high = cell.interval or ((y - cell.error, y + cell.error) if cell.error else (y, y))
            across, up = [[x - min(costs)], [max(costs) - x]], [[y - low], [high - y]]
            axes.errorbar(x, y, xerr=across, yerr=up, fmt="o", color=colour(row), ms=6, lw=1.2, capsize=2)
            axes.annotate(row.label, (x, y), (7, 5), textcoords="offset points", color=_TEXT, fontsize=9)
        sign = 1 if column.better == "lower" else -1
        front: list[tuple[float, float]] = []
        for x, y in sorted(best, key=lambda point: (point[0], sign * point[1])):
            if not front or sign * y < sign * front[-1][1]:
                front.append((x, y))
        axes.plot(*zip(*front, strict=True), color=_TEXT, lw=1, ls=(0, (3, 3)), alpha=0.5, zorder=0)
        axes.margins(x=0.25, y=0.2)
        _bounds(axes, comparison, column)
    return _inline(file)


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
                axes.annotate(row.label, (1, cell.mean), (-2, 2), ha="right", color=SHARED, fontsize=9, **place)
                drawn.append(cell.mean)


@contextmanager
def _axes(salt: str, across: str, up: str) -> Iterator[tuple[Axes, io.StringIO]]:
    """Axes in the page's colours; the file holds their SVG afterwards."""
    file = io.StringIO()
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10, "path.simplify_threshold": 1.0}
    ):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield axes, file
        axes.set_xlabel(across, color=_TEXT)
        axes.set_ylabel(up, color=_TEXT)
        axes.tick_params(which="both", colors=_TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_TEXT)
        axes.spines[["left", "bottom"]].set_alpha(0.35)
        axes.grid(color=_TEXT, alpha=0.1, linewidth=0.6)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)


def _inline(file: io.StringIO) -> str:
    svg = file.getvalue()
    # Groups are numbered alike in every chart; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    return svg.replace(_TEXT, "currentColor")
