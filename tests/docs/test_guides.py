"""The guides' blocks, run from top to bottom in an empty folder as a reader would."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvid.data.table import CLIPS

GUIDE = (Path(__file__).parents[2] / "docs" / "your-own-videos.md").read_text()
# What stands behind this needs parts that are not there yet.
LATER = "<!-- later -->"


@pytest.mark.timeout(280)
def test_your_own_videos_become_a_training(read: Callable[[str], list[str]], tmp_path: Path) -> None:
    ran = read(GUIDE.partition(LATER)[0])
    assert [line.split()[:3] for line in ran[:2]] == [["cogvid", "data", "check"]] * 2
    with (tmp_path / "clips-2.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert rows["kitchen/soup.mp4"]["split"] == "test"
    assert all(row["used"] == "true" for row in rows.values())
    for name in ("samples.html", "samples.png"):
        assert (tmp_path / "data-mine" / name).exists()
    assert "is not trained yet" not in (tmp_path / "data-mine" / "samples.html").read_text()
    assert list((tmp_path / "samples").glob("*.gif"))


def test_the_guide_names_every_column_of_the_clip_table() -> None:
    table = GUIDE[GUIDE.index("| column |") : GUIDE.index(LATER)]
    columns = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    assert re.findall(r"`(\w+)`", " ".join(columns)) == CLIPS.names
