"""The guides' blocks, run from top to bottom in an empty folder as a reader would."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cogvid.data.table import CLIPS
from cogvid.plugins.manager import create_plugin_manager

GUIDE = (Path(__file__).parents[2] / "docs" / "your-own-videos.md").read_text()
# Where the way to a training ends, and what else there is to know begins.
MORE = "## Another shape"
SOURCES = {"ucf101", "kinetics", "webdataset"}


@pytest.mark.timeout(280)
def test_your_own_videos_become_a_training(read: Callable[..., list[str]], tmp_path: Path) -> None:
    ran = read(GUIDE.partition(MORE)[0])
    assert [line.split()[:3] for line in ran[:2]] == [["cogvid", "data", "check"]] * 2
    rows = table(tmp_path / "clips-2.csv")
    assert rows["kitchen/soup.mp4"]["split"] == "test"
    assert all(row["used"] == "true" for row in rows.values())
    for name in ("samples.html", "samples.png"):
        assert (tmp_path / "data-mine" / name).exists()
    assert "is not trained yet" not in (tmp_path / "data-mine" / "samples.html").read_text()
    assert list((tmp_path / "samples").glob("*.gif"))


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.skipif(
    bool(SOURCES - {info.name for info in create_plugin_manager().components()}),
    reason="the built-in data sources are not all installed",
)
def test_all_else_that_the_guide_says_can_be_done_to_videos(read: Callable[..., list[str]], tmp_path: Path) -> None:
    way, chapter, more = GUIDE.partition(MORE)
    read(way, commands=False)
    ran = read(chapter + more)
    checked = [line.split()[3] for line in ran if line.startswith("cogvid data check")]
    assert checked == ["mine.yaml", "ucf.yaml", "kinetics.yaml", "kinetics.yaml", "shards.yaml"]
    found = [table(tmp_path / name) for name in ("clips.csv", *(f"clips-{n}.csv" for n in range(2, 6)))]
    assert [sum(row["used"] == "true" for row in rows.values()) for rows in found] == [2, 4, 3, 2, 2]
    assert found[0]["cat.mp4"]["captions"] == '["a cat jumps off a table", "a grey cat leaps"]'


def test_the_guide_names_every_column_of_the_clip_table() -> None:
    lines = GUIDE[GUIDE.index("| column |") : GUIDE.index(MORE)].splitlines()
    columns = [line.split("|")[1] for line in lines if line.startswith("|")]
    assert re.findall(r"`(\w+)`", " ".join(columns)) == CLIPS.names


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}
