"""The comparison as JSON, for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from cogvid.compare.summary import Comparison, Row, letter


def to_json(comparison: Comparison) -> str:
    """All that the tables show, unrounded; a value that was not determined is null."""
    labels = [variant.label for variant in comparison.variants]
    content = {
        "variants": [
            {"label": variant.label, "runs": [str(run.folder) for run in variant.runs]}
            for variant in comparison.variants
        ],
        "rows": [_row(row, labels) for row in comparison.rows],
        "undetermined": comparison.undetermined,
        "protocols": {
            metric: {letter(i): protocol for i, protocol in enumerate(protocols)}
            for metric, protocols in comparison.protocols.items()
        },
        "config": _by_variant(comparison.config, labels),
        "environment": _by_variant(comparison.environment, labels),
        "notes": comparison.notes,
        "incomplete": {str(run.folder): run.lacks for run in comparison.incomplete},
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _row(row: Row, labels: list[str]) -> dict[str, Any]:
    return {
        "group": row.group,
        "title": row.title,
        "unit": row.unit,
        "protocol": row.protocol or "A",
        "better": row.better,
        "values": {
            label: None if value is None else {**asdict(value), "difference": row.difference(index)}
            for index, (label, value) in enumerate(zip(labels, row.values, strict=True))
        },
    }


def _by_variant(table: dict[str, tuple[str, ...]], labels: list[str]) -> dict[str, dict[str, str]]:
    return {key: dict(zip(labels, values, strict=True)) for key, values in table.items()}
