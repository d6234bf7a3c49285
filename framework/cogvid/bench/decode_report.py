"""The results of `cogvid bench decode` as JSON, in words and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cogvid.bench.decode import BY_FRAME, DecodeResult
from cogvid.bench.decode_cases import SCHEDULED, SEQUENTIAL
from cogvid.compare.charts import COLOURS


def summary(results: Sequence[DecodeResult], bandwidth: float) -> list[dict[str, Any]]:
    """The cases as plain data; seconds and bytes, of which so many can be read a second."""
    return [
        {
            "name": one.case.name,
            "size": asdict(one.case.size),
            "grid": [one.case.grid.frames, one.case.grid.height, one.case.grid.width],
            "attention": asdict(one.case.component),
            "slots": one.slots,
            "passes": one.passes,
            "computed_for_each_kept": one.computed,
            "approximate": one.approximate,
            "equal_tokens": one.equal,
            "speed_up": {name: one.ratio(SEQUENTIAL, name) for name in one.passes},
            "over_scheduled": {name: one.ratio(name, SCHEDULED) for name in one.passes},
            "sequential_over_reading": one.over_reading(bandwidth),
            "seconds": {way: sum(one.best(way)) for way in one.rounds if way not in BY_FRAME},
            "seconds_of_rounds": {way: [sum(each) for each in one.rounds.get(way, [])] for way in one.rounds},
            "s_per_token": {way: one.per_token(way) for way in one.rounds},
            "s_per_token_by_frame": {
                "sequential": one.frames,
                **{way: one.best(way) for way in one.rounds if way in BY_FRAME},
            },
            "last_over_second_frame": one.last_over_second_frame,
            "guided_over_plain": one.ratio("guided", "scheduled"),
            "recomputed_over_cached": one.ratio("recomputed", "sequential"),
            "concatenated_over_sequential_by_frame": one.concatenated_over_sequential,
            "bytes_read_per_step": {"weights": one.read[0], "keys_and_values": one.read[1]},
        }
        for one in results
    ]


def lines(one: DecodeResult, bandwidth: float) -> list[str]:
    """One case in words; the first line is its name."""
    ms = {way: f"{(one.per_token(way) or 0) * 1e3:,.2f} ms a token" for way in one.rounds}
    found = [
        f"{one.case.name}: {one.slots:,} tokens",
        f"  one slot a pass {ms[SEQUENTIAL]}: {one.over_reading(bandwidth) or 0:.2f} times as long as reading "
        f"{sum(one.read) / 1e6:,.1f} MB",
    ]
    for name in (name for name in one.passes if name != SEQUENTIAL):
        title = f"{name}, approximate" if name in one.approximate else name
        found.append(
            f"  {title}: {one.passes[name]:,} passes, {one.computed[name]:.2f} slots computed for each kept, "
            f"{ms[name]}: {one.ratio(SEQUENTIAL, name) or 0:.2f} times as fast; "
            f"{one.equal[name]:.2%} of the tokens equal"
        )
    guided, recomputed = one.ratio("guided", "scheduled"), one.ratio("recomputed", "sequential")
    if guided is not None:
        found.append(f"  with guidance {ms['guided']}: {guided:.2f} times as long")
    if recomputed is not None:
        found.append(f"  without a cache {ms['recomputed']}: {recomputed:.1f} times as long as one slot at a time")
    if one.concatenated_over_sequential:
        ratios = ", ".join(f"{ratio:.2f}" for ratio in one.concatenated_over_sequential)
        found.append(f"  with a cache that grows by concatenation, by frame: {ratios} times as long")
    if one.last_over_second_frame is not None:
        found.append(f"  a token of the last frame over one of the second: {one.last_over_second_frame:.2f}")
    return found


def draw(results: Sequence[DecodeResult], title: str, path: Path) -> None:
    """Write the chart: milliseconds of a token for each case and way, a panel for each size of model."""
    sizes = list(dict.fromkeys(one.case.size.name for one in results))
    drawn = [*BY_FRAME, *dict.fromkeys(name for one in results for name in one.passes)]
    panels = [[one for one in results if one.case.size.name == size] for size in sizes]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 1.4 + 0.5 * len(sizes) + 0.7 * len(results)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=9)
        heights = [len(panel) + 0.5 for panel in panels]
        rows = figure.subplots(len(sizes), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, size, panel in zip(rows, sizes, panels, strict=True):
            for number, one in enumerate(panel):
                measured = [way for way in drawn if way in one.rounds]
                for place, way in enumerate(measured):
                    milliseconds = (one.per_token(way) or 0) * 1e3
                    height = number + (place - (len(measured) - 1) / 2) * 0.2
                    axes.barh(height, milliseconds, 0.18, color=COLOURS[drawn.index(way) % len(COLOURS)])
                    faster = f", {one.ratio(SEQUENTIAL, way):.2f}x as fast" if way in one.passes else ""
                    label = f" {milliseconds:.3g} ms" + faster * (way != SEQUENTIAL)
                    axes.text(milliseconds, height, label, va="center", fontsize=7)
            axes.set_yticks(range(len(panel)), [one.case.name.split(", ", 1)[1] for one in panel], fontsize=8)
            axes.invert_yaxis()
            axes.set_xscale("log")
            axes.margins(x=0.15)
            axes.set_title(f"model: {size}", fontsize=9, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="x", alpha=0.15, linewidth=0.6)
        rows[-1].set_xlabel("milliseconds of a token")
        handles = [Patch(color=COLOURS[number % len(COLOURS)], label=way) for number, way in enumerate(drawn)]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(drawn), frameon=False, fontsize=8)
        figure.savefig(path, dpi=160)
