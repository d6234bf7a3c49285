"""The README's blocks, run from top to bottom in an empty folder as a reader would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cogvid.data.video import write_video

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(280)
def test_every_block_of_the_readme_does_what_it_says(read: Callable[..., list[str]], tmp_path: Path) -> None:
    _make_videos(tmp_path / "my_videos")
    ran = read((ROOT / "README.md").read_text(), elsewhere=(ROOT / "docs" / "clusters.md").read_text())
    assert any(line.startswith("cogvid ablate") for line in ran)
    assert (tmp_path / "report.html").exists()
    assert list((tmp_path / "samples").glob("*.mp4"))


def _make_videos(folder: Path) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for number in range(4):
        frames = np.repeat(random.integers(0, 255, (1, 48, 64, 3), dtype=np.uint8), 20, axis=0)
        write_video(folder / f"{number}.mp4", frames, fps=8)
        rows.append(
            {
                "file": f"{number}.mp4",
                "caption": f"noise {number}",
                "split": "test" if number > 1 else "train",
            }
        )
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
