"""`cogvid inspect metrics`: a metric's values for clips made worse, beside real against real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cogvid import UserError
from cogvid.cli import main
from cogvid.data.video import write_video
from cogvid.inspect.metric_clips import Clips, crops
from cogvid.inspect.metrics import markdown, rows, sight
from cogvid.metrics import FrechetVideoDistance, VideoExtractor
from cogvid.metrics.corruptions import CORRUPTIONS

SHAPES = ["data.clips=1", "data.test_clips=12", "data.durations=[1]"]


class Grey(VideoExtractor):
    """The mean grey of a clip, and of its last frame less its first."""

    name, feature_size, classes, min_frames, resize = "grey", 2, 2, 2, "none"

    def __init__(self) -> None:
        super().__init__(nn.Identity(), Path(__file__))
        self.read_clips = 0

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.read_clips += len(pixels)
        frames = pixels.mean((1, 3, 4))
        found = torch.stack([frames.mean(1), frames[:, -1] - frames[:, 0]], dim=1)
        return found, found


@pytest.fixture(scope="module")
def clips() -> Clips:
    """Clips that brighten by 4 from frame to frame."""
    random = torch.Generator().manual_seed(0)
    first = torch.randint(40, 160, (32, 1, 1, 1, 1), generator=random)
    videos = (first + 4 * torch.arange(9)[:, None, None, None]).expand(-1, -1, 3, 8, 8)
    return Clips(videos.to(torch.uint8).contiguous(), ["a caption"] * 32)


def test_what_a_metric_does_not_see_stays_at_real_against_real(clips: Clips) -> None:
    extractor = Grey()
    found = sight(FrechetVideoDistance(extractor), clips, [1, 5], seed=0)
    assert (found.clips, [*found.corrupted]) == (16, [*CORRUPTIONS])
    fvd = {name: [found.corrupted[name][strength]["fvd"] for strength in (1, 5)] for name in CORRUPTIONS}
    assert fvd["blur"] == pytest.approx([found.real["fvd"]] * 2)
    assert found.real["fvd"] + 1 < fvd["frozen"][0] < fvd["frozen"][1]
    # The sixteen real clips of the other side once, these as they are, and each corruption of them.
    assert extractor.read_clips == 1 + 16 * (2 + 2 * len(CORRUPTIONS))


def test_the_table_has_real_against_real_and_every_corruption(clips: Clips) -> None:
    found = sight(FrechetVideoDistance(Grey()), clips, [2], seed=0)
    table = rows(found, "fvd")
    assert [row[0] for row in table] == ["corruption", "none", *CORRUPTIONS]
    assert table[1][1] == f"{found.real['fvd']:.3g}"
    assert len(markdown(table).splitlines()) == len(table) + 1


def test_crops_are_consecutive_frames_of_every_video(tmp_path: Path) -> None:
    for number in range(2):
        frames = np.arange(12, dtype=np.uint8)[:, None, None, None] * 5 + 100 * number
        write_video(tmp_path / f"{number}.mp4", np.broadcast_to(frames, (12, 48, 64, 3)).copy(), fps=8)
    found = crops(tmp_path, 6, frames=5, size=16, seed=0).videos
    assert found.shape == (6, 5, 3, 16, 16)
    greys = found[:, :, 0, 0, 0].int()
    assert (greys.diff(dim=1) == 5).all()
    assert sorted((greys[:, 0] >= 100).tolist()) == [False] * 3 + [True] * 3
    with pytest.raises(UserError, match="has 12 frames, fewer than 13"):
        crops(tmp_path, 6, frames=13, size=16, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no videos in"):
        crops(tmp_path / "empty", 6, frames=5, size=16, seed=0)


def test_the_command_writes_table_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sees.json"
    words = ["inspect", "metrics", "fvd", "extractor=shapes3d", *SHAPES, "--clips", "6", "--strengths", "5"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--value", "fvd", "--out", str(out)])
    assert not ended.value.code
    found = json.loads(out.read_text())
    assert found["protocol"]["extractor"] == "shapes3d"
    assert found["corrupted"]["held"]["5"]["fvd"] > found["real"]["fvd"]
    table = out.with_suffix(".md").read_text()
    assert f"| held | {found['corrupted']['held']['5']['fvd']:.0f} |" in table
    assert "6 clips of 17 frames" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fvdd"], "no metric component 'fvdd'"),
        (["fvd", "extractor"], "'extractor' is no option"),
        (["fvd", "--strengths", "0,6"], "--strengths 0,6: give numbers from 1 to 5"),
        (["fvd", "--value", "fid"], "--value fid: fvd gives fvd, fvd_debiased"),
        (["fvd", "--frames", "3"], "at least 5 frames"),
        (["fvd", *SHAPES, "--clips", "7"], "14 clips are needed, .* the data has 13"),
        (["fvd", "--videos", "nowhere"], "There is no nowhere"),
    ],
)
def test_what_cannot_be_shown_is_said(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "metrics", *words])
    assert ended.value.code
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
