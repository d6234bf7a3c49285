"""Loss curves as inline SVG that follows the page's colours."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from cogvid.compare.read import Stage
from cogvid.compare.summary import Variant

# Of middle lightness, to be told apart on a light and on a dark page.
COLOURS = ("#4c8df5", "#e4753b", "#2fa37c", "#b467d6", "#c99a12", "#d9506b", "#3fa9bd", "#8a8f98")
_SHARED = "#8a8f98"
# Stands for the page's text colour, which only the browser knows.
_TEXT = "#010203"
_POINTS = 200


@dataclass(frozen=True)
class _Curve:
    label: str
    colour: str
    losses: tuple[tuple[int, float], ...]
    held_out: tuple[tuple[int, float], ...]


def loss_chart(variants: Sequence[Variant], stage: str) -> str:
    """An SVG element with the losses of a stage, a line for each run and dots for held-out ones; empty without any.

    Variants that share the stage share the line.
    """
    curves = _curves(variants, stage)
    if not curves:
        return ""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": stage, "font.size": 10}):
        figure = Figure(figsize=(5.2, 2.8), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for curve in curves:
            steps, losses = zip(*_thinned(curve.losses), strict=True)
            axes.plot(steps, losses, color=curve.colour, label=curve.label, linewidth=1.6, alpha=0.9)
            for step, loss in curve.held_out:
                axes.plot(step, loss, "o", color=curve.colour, markersize=4)
        values = [loss for curve in curves for _, loss in curve.losses]
        if min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
        axes.set_xlabel("step", color=_TEXT)
        axes.set_ylabel("loss", color=_TEXT)
        axes.tick_params(which="both", colors=_TEXT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_TEXT)
        axes.grid(color=_TEXT, alpha=0.12, linewidth=0.6)
        axes.legend(frameon=False, labelcolor=_TEXT)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    svg = file.getvalue()
    return svg[svg.index("<svg") :].replace(_TEXT, "currentColor")


def _curves(variants: Sequence[Variant], stage: str) -> list[_Curve]:
    owners: dict[str, dict[int, None]] = {}
    stages: dict[str, Stage] = {}
    for index, variant in enumerate(variants):
        for run in variant.runs:
            if stage in run.stages and run.stages[stage].losses:
                identity = run.stages[stage].identity
                owners.setdefault(identity, {})[index] = None
                stages[identity] = run.stages[stage]
    curves = []
    labelled: set[str] = set()
    for identity, indices in owners.items():
        label = ", ".join(variants[index].label for index in indices)
        if len(indices) == len(variants) > 1:
            label = "all variants"
        colour = _SHARED if len(indices) > 1 else COLOURS[next(iter(indices)) % len(COLOURS)]
        # Matplotlib leaves labels with an underscore out of the legend: one entry for all seeds.
        shown = f"_{label}" if label in labelled else label
        # A frame tokenizer is trained for more than the error that is held out.
        held_out = stages[identity].held_out_losses if stage != "tokenizer" else ()
        curves.append(_Curve(shown, colour, stages[identity].losses, held_out))
        labelled.add(label)
    return curves


def _thinned(losses: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS` points, each the mean of its neighbours: what the eye would make of all of them."""
    size = -(-len(losses) // _POINTS)
    groups = [losses[start : start + size] for start in range(0, len(losses), size)]
    return [
        (statistics.fmean(step for step, _ in group), statistics.fmean(loss for _, loss in group)) for group in groups
    ]
