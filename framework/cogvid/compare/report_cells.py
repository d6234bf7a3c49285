"""The comparison's table as the report shows it: every number a text, one precision in a column."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cogvid.compare.comparison import Cell, Column, Comparison, Difference, Row
from cogvid.compare.formatting import Numbers, numbers

HEADLINES = 6
MINUS = "\u2212"
_DIRECTIONS = {"lower": ("↓", "lower is better"), "higher": ("↑", "higher is better"), None: ("", "")}


class Anchors:
    """Addresses within the page: short, of letters that need no escape, and each once."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str], str] = {}

    def __call__(self, kind: str, name: str) -> str:
        """The address of something; the same name has the same one."""
        if (kind, name) not in self._taken:
            word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48]
            wanted = base = f"{kind}-{word}" if word else kind
            number = 1
            while wanted in self._taken.values():
                number += 1
                wanted = f"{base}-{number}"
            self._taken[kind, name] = wanted
        return self._taken[kind, name]


@dataclass(frozen=True)
class CellText:
    """What a cell shows.

    Attributes:
        value: the mean.
        spread: what follows it, with its ±; empty where it is unknown.
        sort: the mean unrounded.
        place: of the mean between the column's least and largest, 0 to 100; None without bounds.
        seeds: number and value of each.
        difference: to the baseline with interval and corrected p, in words where there is no verdict; empty without.
        verdict: of the difference.
        partial: how many seeds it is of, where that is fewer than the row's.
    """

    value: str
    spread: str
    sort: float
    place: float | None
    seeds: tuple[tuple[int, str], ...]
    difference: str = ""
    verdict: str = ""
    partial: str = ""


@dataclass(frozen=True)
class Head:
    """A column's head and its cells by row.

    Attributes:
        headline: always shown.
        ticks: places of the bounds, 0 to 100, with their labels.
        widest: its longest spread: all take its room, and the values stand below each other.
    """

    column: Column
    anchor: str
    headline: bool
    arrow: str
    direction: str
    cells: dict[str, CellText]
    ticks: tuple[tuple[str, float], ...]
    widest: str


def heads(comparison: Comparison, anchors: Anchors) -> list[Head]:
    """The columns, the headlines marked: at most `HEADLINES`, the first ones where none asks for it."""
    asking = [column for column in comparison.columns if column.headline] or list(comparison.columns)
    shown = {column.key for column in asking[:HEADLINES]}
    return [
        _head(comparison, column, anchors("column", column.key), column.key in shown) for column in comparison.columns
    ]


def _head(comparison: Comparison, column: Column, anchor: str, headline: bool) -> Head:
    rows = [row for row in comparison.rows if column.key in row.cells]
    means = [row.cells[column.key].mean for row in rows]
    show = numbers(comparison, column)
    low, high = min(means, default=0.0), max(means, default=0.0)
    bounds = [row for row in rows if row.kind == "bound"]
    scaled = bool(bounds) and high > low
    places = {row.label: 100 * (row.cells[column.key].mean - low) / (high - low) for row in rows} if scaled else {}
    cells = {row.label: _cell(show, row, places.get(row.label)) for row in rows}
    arrow, direction = _DIRECTIONS[column.better]
    return Head(
        column=column,
        anchor=anchor,
        headline=headline,
        arrow=arrow,
        direction=direction,
        cells=cells,
        ticks=tuple((row.label, places[row.label]) for row in bounds) if scaled else (),
        widest=max((cell.spread for cell in cells.values()), key=len, default=""),
    )


def _cell(show: Numbers, row: Row, place: float | None) -> CellText:
    cell = row.cells[show.column.key]
    difference = cell.difference
    fewer = row.kind == "variant" and len(cell.seeds) < len(row.runs)
    return CellText(
        value=_minus(show(cell.mean)),
        spread=_spread(cell, show),
        sort=cell.mean,
        place=place,
        seeds=tuple((seed, _minus(show(value))) for seed, value in sorted(cell.seeds.items())),
        difference=_difference(difference, show) if difference else "",
        verdict=difference.verdict if difference else "",
        partial=seeds_text(len(cell.seeds)) if fewer else "",
    )


def _spread(cell: Cell, show: Numbers) -> str:
    half = (cell.interval[1] - cell.interval[0]) / 2 if cell.interval else cell.error
    if half is None or (half == 0 and show.column.unit == "count"):
        return ""
    return f"± {show(half)}"


def _difference(difference: Difference, show: Numbers) -> str:
    if not difference.mean and show.column.unit == "count":
        return ""
    text = _minus(show.signed(difference.mean))
    if difference.interval:
        low, high = (_minus(show.signed(end)) for end in difference.interval)
        text += f" ({low} to {high})"
    if difference.corrected is not None:
        text += f", p {difference.corrected:.3f}" if difference.corrected >= 0.001 else ", p < 0.001"
    if difference.verdict == "one seed":
        text += ", one seed: no verdict"
    return text


def _minus(text: str) -> str:
    """A number with the sign that is as wide as a plus."""
    return text.replace("-", MINUS)


def sentence(text: str) -> str:
    """A metric's words about itself as a sentence."""
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def seeds_text(seeds: int) -> str:
    """How many, in words."""
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def one_seed(row: Row) -> bool:
    """Whether nothing of a variant could be judged for want of seeds."""
    verdicts = {cell.difference.verdict for cell in row.cells.values() if cell.difference is not None}
    return "one seed" in verdicts and not verdicts & {"better", "worse", "undecided"}


def setting(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What all runs ran on and with, as far as they agree."""
    runs = [run.environment for row in comparison.variants for run in row.runs if run.environment]
    names = {
        "git_commit": "commit",
        "python": "Python",
        "packages.torch": "torch",
        "hardware.cpu": "CPU",
        "hardware.cores": "cores",
        "hardware.gpu": "GPU",
    }
    for key, name in names.items():
        if runs and runs[0].get(key) and all(run.get(key) == runs[0][key] for run in runs):
            value = str(runs[0][key])
            yield name, value[:12] if key == "git_commit" else value
