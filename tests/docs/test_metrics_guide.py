"""What the guide to metrics says can be done, done; and its tables, which the command makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvid.metrics.corruptions import CORRUPTIONS

GUIDE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_guide_to_metrics_shows_what_one_sees(read: Callable[..., list[str]], tmp_path: Path) -> None:
    pytest.importorskip("cogvid.metrics.described", reason="extractors cannot be described here")
    read(GUIDE)
    found = json.loads((tmp_path / "sees.json").read_text())
    assert found["corrupted"]["held"]["5"]["fvd"] > found["real"]["fvd"]
    assert json.loads((tmp_path / "filters.json").read_text())["protocol"]["extractor"] == "filters"


def test_the_tables_of_the_guide_have_every_corruption() -> None:
    rows = [line.split(" | ") for line in GUIDE.splitlines() if line.startswith("| ")]
    for name, corruption in CORRUPTIONS.items():
        texts = [row[-1].removesuffix(" |") for row in rows if row[0] == f"| {name}"]
        assert texts == [corruption.text] * 2
