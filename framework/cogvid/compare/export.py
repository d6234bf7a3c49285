"""The comparison for other programs: JSON with all there is, CSV with a line for each seed's value."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cogvid.compare.comparison import Column, Comparison, Row

_FIELDS = ("row", "kind", "group", "column", "title", "unit", "better", "protocol")
_VALUES = ("what", "seed", "value", "low", "high", "pairs", "p", "corrected_p", "verdict")


def to_json(comparison: Comparison) -> str:
    """Everything, unrounded; what was not determined is null or not there."""
    labels = [row.label for row in comparison.variants]
    content = {
        "columns": [asdict(column) for column in comparison.columns],
        "rows": [_row(row) for row in comparison.rows],
        "baseline": comparison.baseline,
        "protocols": comparison.protocols,
        "splits": {measure: asdict(split) for measure, split in comparison.splits.items()},
        "undetermined": comparison.undetermined,
        "config": _by_variant(comparison.config, labels),
        "environment": _by_variant(comparison.environment, labels),
        "troubles": [asdict(trouble) for trouble in comparison.troubles],
        "notes": comparison.notes,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def to_csv(comparison: Comparison) -> str:
    """Lines of what a row has in a column: `seed` for each seed's value, `mean`, and `difference` to the baseline.

    A line feed ends a line; low and high are the ends of the 95% interval.
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, (*_FIELDS, *_VALUES), lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        for column in comparison.columns:
            writer.writerows(_lines(row, column))
    return file.getvalue()


def _row(row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "kind": row.kind,
        "swept": row.swept,
        "runs": {run.seed: str(run.folder) for run in row.runs},
        "cells": {key: asdict(cell) for key, cell in row.cells.items()},
    }


def _by_variant(table: dict[str, tuple[str, ...]], labels: list[str]) -> dict[str, dict[str, str]]:
    return {key: dict(zip(labels, values, strict=True)) for key, values in table.items()}


def _lines(row: Row, column: Column) -> Iterator[dict[str, Any]]:
    cell = row.cells.get(column.key)
    if cell is None:
        return
    own = (row.label, row.kind, column.group, column.key, column.title, column.unit, column.better, column.protocol)
    place = dict(zip(_FIELDS, own, strict=True))
    for seed, value in cell.seeds.items():
        yield {**place, "what": "seed", "seed": seed, "value": value}
    low, high = cell.interval or (None, None)
    yield {**place, "what": "mean", "value": cell.mean, "low": low, "high": high}
    if found := cell.difference:
        low, high = found.interval or (None, None)
        yield {
            **place,
            "what": "difference",
            "value": found.mean,
            "low": low,
            "high": high,
            "pairs": found.pairs,
            "p": found.p,
            "corrected_p": found.corrected,
            "verdict": found.verdict,
        }
