"""The results of a benchmark as JSON, as tables and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cogvid.bench.attention import NOT_ASKED, PASSES, CaseResult, Result
from cogvid.bench.cases import AttentionSettings
from cogvid.compare.charts import COLOURS

_TITLES = {"forward": "forward", "forward_backward": "forward and backward"}


def as_json(results: Sequence[CaseResult], settings: AttentionSettings) -> list[dict[str, Any]]:
    """The cases, their methods in them, as plain data; seconds and bytes."""
    return [
        {
            "name": one.case.name,
            "grid": [one.case.grid.frames, one.case.grid.height, one.case.grid.width],
            "tokens": one.case.grid.tokens,
            "attention": {"name": one.case.component.name, "options": one.options},
            "layers": one.layers,
            "visible_pairs": one.pairs,
            "visible_share": one.pairs / one.case.grid.tokens**2,
            "checked_queries": "all" if one.checked_whole else "some, drawn at random",
            "methods": {name: _method(one, name, settings) for name in one.methods},
        }
        for one in results
    ]


def _method(one: CaseResult, name: str, settings: AttentionSettings) -> dict[str, Any]:
    result = one.methods[name]
    entry: dict[str, Any] = {"identical": result.other_mask is None, "note": result.other_mask}
    if result.deviations:
        entry["error"] = {d.name: {"largest": d.error, "allowed": d.allowed} for d in result.deviations.values()}
    if result.skipped is not None:
        return {**entry, "skipped": result.skipped, "wrong": result.wrong}
    return {
        **entry,
        "forward_only": result.forward_only,
        **{f"{p}_s": {"median": t.median, "min": t.min} for p, t in result.times.items()},
        "ratio_to_dense": {step: one.ratio(name, step) for step in PASSES},
        "s_per_token": {p: t.median / (settings.batch * one.case.grid.tokens) for p, t in result.times.items()},
        "peak_memory_bytes": result.peaks,
    }


def table(one: CaseResult, settings: AttentionSettings) -> Table:
    """One case: a row for each method that was timed; `x` is the share of the dense method's time."""
    drawn = Table(
        title=f"{one.case.name}: {one.pairs:,.0f} visible pairs, {one.pairs / one.case.grid.tokens**2:.2%}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    drawn.add_column("method", no_wrap=True)
    for head in ("forward ms", "x", "both ms", "x", "us/token", "MiB", "both MiB"):
        drawn.add_column(head, justify="right", no_wrap=True)
    for name, result in one.methods.items():
        if result.skipped is not None:
            continue
        cells = []
        for step in PASSES:
            ratio = one.ratio(name, step)
            cells.append(f"{result.times[step].median * 1e3:,.2f}" if step in result.times else "")
            cells.append(f"{ratio:.3f}" if ratio is not None else "")
        last = result.times.get(PASSES[1], result.times[PASSES[0]])
        cells.append(f"{last.median * 1e6 / (settings.batch * one.case.grid.tokens):.2f}")
        cells += [f"{peak / 2**20:,.1f}" if peak is not None else "" for peak in map(result.peaks.get, PASSES)]
        drawn.add_row(name, *cells)
    return drawn


def notes(one: CaseResult) -> list[str]:
    """What the table of a case does not say: how exact each method is, or why it was not timed."""
    return [f"{name}: {_note(result)}" for name, result in one.methods.items()]


def _note(result: Result) -> str:
    if result.skipped is not None:
        return f"{'WRONG, ' * result.wrong}not timed: {result.skipped}"
    if result.other_mask is not None:
        return result.other_mask
    nearest = max(d.error / d.allowed for d in result.deviations.values())
    note = f"checked, {nearest:.0%} of the allowed error"
    return note if result.forward_only in (None, NOT_ASKED) else f"{note}; forward only: {result.forward_only}"


def draw(results: Sequence[CaseResult], title: str, path: Path) -> None:
    """Write the chart: time over visible pairs, a line for each method."""
    names = list(dict.fromkeys(name for one in results for name in one.methods))
    steps = [step for step in PASSES if any(step in r.times for one in results for r in one.methods.values())]
    with mpl.rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": title}):
        figure = Figure(figsize=(5.6 * max(1, len(steps)), 4.2 + 0.12 * len(results)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=9)
        for axes, step in zip(figure.subplots(1, max(1, len(steps)), squeeze=False)[0], steps, strict=False):
            for number, name in enumerate(names):
                points = sorted(
                    (one.pairs, one.methods[name].times[step].median * 1e3)
                    for one in results
                    if name in one.methods and step in one.methods[name].times
                )
                if points:
                    colour = COLOURS[number % len(COLOURS)]
                    axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, label=name)
            for number, one in enumerate(results, 1):
                axes.axvline(one.pairs, color="#8a8f98", alpha=0.25, linewidth=0.6, zorder=0)
                # Cases with equally many pairs stand above each other.
                above = [other.pairs for other in results[: number - 1]].count(one.pairs)
                place = axes.get_xaxis_transform()
                axes.text(one.pairs, 1.01 + 0.04 * above, str(number), fontsize=7, ha="center", transform=place)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("visible pairs of frame tokens")
            axes.set_ylabel(f"{_TITLES[step]}: milliseconds, median")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.15, linewidth=0.6)
            axes.legend(frameon=False, fontsize=8)
        key = [f"{number}: {one.case.name}" for number, one in enumerate(results, 1)]
        figure.supxlabel("\n".join(key), fontsize=7, ha="left", x=0.02)
        figure.savefig(path, dpi=160)
