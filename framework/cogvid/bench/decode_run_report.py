"""The results of `cogvid bench decode --run` as JSON, in words and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cogvid.bench.decode_run import Measured
from cogvid.compare.charts import COLOURS


def whole_clips(found: Sequence[Measured]) -> list[dict[str, Any]]:
    """Sums over the parts of a clip, by decoding and batch size."""
    cells = {}
    for first in found:
        parts = [one for one in found if (one.decoding, one.batch) == (first.decoding, first.batch)]
        rounds = [sum(each) for each in zip(*(one.seconds for one in parts), strict=True)]
        passes = sum(one.passes for one in parts)
        cells[first.decoding, first.batch] = {
            "decoding": first.decoding,
            "exact": first.exact,
            "batch": first.batch,
            "passes_mean": float(passes.double().mean()),  # type: ignore[union-attr]
            "passes_most": int(passes.max()),  # type: ignore[union-attr]
            "computed_for_each_kept": sum(int(one.rows.sum()) for one in parts)
            / sum(int(one.kept.sum()) for one in parts),
            "equal_tokens": sum(one.equal * one.tokens for one in parts) / sum(one.tokens for one in parts),
            "ties": None if first.ties is None else sum(len(one.ties or []) for one in parts),
            "timed_clips": first.timed,
            "seconds_of_rounds": rounds,
            "seconds": min(rounds),
            "tokens_per_second": first.timed * sum(one.tokens for one in parts) / min(rounds),
        }
    return list(cells.values())


def lines(found: Sequence[Measured]) -> list[str]:
    """A line for each part, batch size and decoding, then those of whole clips."""
    said = [
        (f"{one.part}, batch {one.batch}", {**one.record(), "ties": None if one.ties is None else len(one.ties)})
        for one in found
    ]
    said += [(f"whole clip, batch {cell['batch']}", cell) for cell in whole_clips(found)]
    return [
        f"{title}: {cell['decoding']}{'' if cell['exact'] else ', approximate'}: "
        f"{cell['passes_mean']:.1f} passes, {cell['passes_most']} at most; {cell['computed_for_each_kept']:.2f} slots "
        f"computed for each kept; {cell['tokens_per_second']:,.0f} tokens/s; {cell['equal_tokens']:.2%} of the tokens "
        "equal" + ("" if cell["ties"] is None else f", {cell['ties']} clips have a rounding tie")
        for title, cell in said
    ]


def draw(found: Sequence[Measured], title: str, path: Path) -> None:
    """Write the chart: passes and time of whole clips, and the acceptance by place of each part."""
    cells, names = whole_clips(found), list(dict.fromkeys(one.decoding for one in found))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    parts = list(dict.fromkeys(one.part for one in found))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(8, 2.4 + 0.35 * len(cells) + 1.3 * ((len(parts) + 1) // 2)), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=9)
        tall = 1 + 1.3 * ((len(parts) + 1) // 2)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[1 + 0.35 * len(cells), tall])[:, 0]
        for axes, key, label in zip(
            above.subplots(1, 2, sharey=True),
            ("passes_mean", "seconds"),
            ("passes of a clip, mean", "milliseconds of a clip"),
            strict=True,
        ):
            for place, cell in enumerate(cells):
                value = cell[key] if key == "passes_mean" else cell[key] / cell["timed_clips"] * 1e3
                axes.barh(place, value, 0.7, color=colours[cell["decoding"]])
                axes.text(value, place, f" {value:.3g}", va="center", fontsize=7)
            axes.set_yticks(
                range(len(cells)),
                [f"{c['decoding']}{'' if c['exact'] else ', approximate'}, batch {c['batch']}" for c in cells],
                fontsize=8,
            )
            axes.set_title(label, fontsize=9, loc="left")
            axes.margins(x=0.15)
            axes.spines[["top", "right"]].set_visible(False)
        above.axes[0].invert_yaxis()
        rows = below.subplots((len(parts) + 1) // 2, 2, squeeze=False, sharey=True).flatten()
        for axes, part in zip(rows, parts, strict=False):
            for one in (one for one in found if one.part == part and one.batch == found[0].batch):
                axes.plot(one.record()["acceptance_by_place"], color=colours[one.decoding], label=one.decoding)
            axes.set_title(f"{part}: share of rows final in their pass, by place", fontsize=8, loc="left")
            axes.set_ylim(0, 1.05)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in rows[len(parts) :]:
            axes.set_axis_off()
        rows[0].legend(fontsize=7, frameon=False)
        figure.savefig(path, dpi=160)
