"""The tables of "What reproduces", made from the records of the ablations: `python -m made.ablations`, in docs.

A page says above a table which ablation it shows, and which columns:

    <!-- ablation_gate: KVD (shapes3d); all right -->
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cogvid.compare import compare, find_runs, formatting
from cogvid.compare.comparison import Column, Comparison, Row

DOCS = Path(__file__).resolve().parents[1]
PAGE = DOCS / "reproduces.md"
RECORDS = DOCS.parent / "benchmarks" / "ablations"
_TABLE = re.compile(r"(?P<head><!-- (?P<name>ablation_\w+): (?P<columns>.+) -->\n)(?:\|.*\n)*")


def remade(page: str) -> str:
    """A page with its tables as the records have them.

    Raises:
        LookupError: records are incomplete, or have no such column.
    """
    return _TABLE.sub(lambda found: found["head"] + _table(found["name"], found["columns"].split("; ")), page)


def _table(name: str, titles: list[str]) -> str:
    comparison = compare(find_runs([RECORDS / name]))
    if comparison.troubles:
        raise LookupError(f"{comparison.troubles[0].run}: {comparison.troubles[0].cause}")
    by_title = {column.title: column for column in comparison.columns}
    if missing := [title for title in titles if title not in by_title]:
        raise LookupError(f"{name} has no column {missing[0]!r}, but {', '.join(by_title)}")
    columns = [by_title[title] for title in titles]
    rows = [["", *map(formatting.title, columns)], ["---", *("---:" for _ in columns)]]
    for row in comparison.rows:
        rows.append([row.label if row.kind == "variant" else f"*{row.label}*", *_values(comparison, row, columns)])
        if row.kind == "variant" and row.label != comparison.baseline:
            rows.append([f"difference to {comparison.baseline}", *_differences(comparison, row, columns)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _values(comparison: Comparison, row: Row, columns: list[Column]) -> Iterator[str]:
    for column in columns:
        cell = row.cells.get(column.key)
        shown = formatting.numbers(comparison, column)
        yield formatting.value(row, cell, shown) if cell else formatting.NO_VALUE


def _differences(comparison: Comparison, row: Row, columns: list[Column]) -> Iterator[str]:
    for column in columns:
        cell = row.cells.get(column.key)
        shown = formatting.numbers(comparison, column)
        yield shown.difference(cell.difference) if cell and cell.difference else formatting.NO_VALUE


if __name__ == "__main__":
    PAGE.write_text(remade(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
