"""Values as text: one precision in a column, the same in the terminal, LaTeX and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvid.compare.comparison import Better, Cell, Column, Comparison, Difference, Row

NO_VALUE = "-"
ARROWS: Mapping[Better | None, str] = {"higher": "↑", "lower": "↓", None: ""}
# Of losses the last digits are what variants differ in.
_DECIMALS = {"nats": 4, "dB": 2, "share": 3}


@dataclass(frozen=True)
class Numbers:
    """How a column shows numbers.

    Attributes:
        decimals: for all of its values.
    """

    column: Column
    decimals: int

    def __call__(self, number: float) -> str:
        """A number, without its unit unless that is a time."""
        if self.column.unit == "seconds":
            return duration(number)
        if self.column.unit == "count":
            return count(number)
        return f"{number:,.{self.decimals}f}"

    def value(self, cell: Cell) -> tuple[str, str]:
        """The mean, and half of its interval; both empty strings where there is none of them."""
        half = "" if cell.interval is None else self((cell.interval[1] - cell.interval[0]) / 2)
        return self(cell.mean), half

    def difference(self, difference: Difference) -> str:
        """The signed mean, half of its interval, and what was decided, where something was."""
        half = "" if difference.interval is None else self((difference.interval[1] - difference.interval[0]) / 2)
        verdict = f" {difference.verdict}" if difference.verdict in ("better", "worse") else ""
        return f"{self.signed(difference.mean)}{f' ± {half}' if half else ''}{verdict}"

    def signed(self, number: float) -> str:
        """A number that always has its sign."""
        return f"{'-' if number < 0 else '+'}{self(abs(number))}"


def numbers(comparison: Comparison, column: Column) -> Numbers:
    """Four significant digits of the column's largest value, three below 1, or what its unit always has."""
    if column.unit in _DECIMALS:
        return Numbers(column, _DECIMALS[column.unit])
    largest = max((abs(row.cells[column.key].mean) for row in comparison.rows if column.key in row.cells), default=0.0)
    if largest == 0:
        return Numbers(column, 3)
    exponent = math.floor(math.log10(largest))
    return Numbers(column, max(0, 3 - exponent if exponent >= 0 else 2 - exponent))


def title(column: Column, arrows: Mapping[Better | None, str] = ARROWS) -> str:
    """A column's head: its title, the unit unless the values say it, and which way is better."""
    unit = f"({column.unit})" if column.unit and column.unit not in ("count", "seconds", "share") else ""
    return " ".join(part for part in (column.title, unit, arrows[column.better]) if part)


def shown_columns(comparison: Comparison, everything: bool) -> Sequence[Column]:
    """The headline, or all columns where that is asked for or none is a headline."""
    headline = [column for column in comparison.columns if column.headline]
    return comparison.columns if everything or not headline else headline


def value(row: Row, cell: Cell, shown: Numbers) -> str:
    """A cell's mean with half of its interval, and how many seeds it is of, where these are not all."""
    mean, half = shown.value(cell)
    text = f"{mean} ± {half}" if half and shown.column.unit != "count" else mean
    few = partial(row, cell)
    return f"{text} ({few})" if few else text


def partial(row: Row, cell: Cell) -> str:
    """How many seeds a value is of, where these are not all of the variant."""
    return f"n={len(cell.seeds)}" if row.kind == "variant" and len(cell.seeds) < len(row.runs) else ""


def judged(comparison: Comparison) -> int:
    """How many differences were corrected together."""
    found = (cell.difference for row in comparison.variants for cell in row.cells.values())
    return sum(difference is not None and difference.corrected is not None for difference in found)


def count(number: float) -> str:
    """Large counts in millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
