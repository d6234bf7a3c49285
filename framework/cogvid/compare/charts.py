"""Loss curves as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cogvid.compare.comparison import Row
from cogvid.compare.read import TRAINING_STAGES, Stage

# Of middle lightness, to be told apart on a light and on a dark page.
COLOURS = ("#4c8df5", "#e4753b", "#2fa37c", "#b467d6", "#c99a12", "#d9506b", "#3fa9bd", "#9a7d5c")
SHARED = "#8a8f98"
# Stands for the page's text colour, which only the browser knows.
TEXT = "#010203"
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
    with chart_axes(title, "step", kind.split()[-1]) as (axes, file):
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
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
    return inline_svg(file)


def _mean(seeds: Sequence[Points]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Over seeds, where all of them have been: (points, 2)."""
    arrays = [np.array(points, dtype=float) for points in seeds]
    first, last = max(a[0, 0] for a in arrays), min(a[-1, 0] for a in arrays)
    steps = max(arrays, key=len)[:, 0]
    steps = steps[(steps >= first) & (steps <= last)]
    return np.stack([steps, np.mean([np.interp(steps, a[:, 0], a[:, 1]) for a in arrays], axis=0)], axis=1)


@contextmanager
def chart_axes(salt: str, across: str, up: str) -> Iterator[tuple[Axes, io.StringIO]]:
    """Axes in the page's colours; the file holds their SVG afterwards."""
    file = io.StringIO()
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10, "path.simplify_threshold": 1.0}
    ):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield axes, file
        axes.set_xlabel(across, color=TEXT)
        axes.set_ylabel(up, color=TEXT)
        axes.tick_params(which="both", colors=TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(TEXT)
        axes.spines[["left", "bottom"]].set_alpha(0.35)
        axes.grid(color=TEXT, alpha=0.1, linewidth=0.6)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)


def inline_svg(file: io.StringIO) -> str:
    """What the axes wrote, as an element of a page."""
    svg = file.getvalue()
    # Groups are numbered alike in every chart; nothing refers to them.
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])
    return svg.replace(TEXT, "currentColor")
