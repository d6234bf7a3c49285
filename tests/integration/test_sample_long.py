"""Clips that go on from their last frames: written while they are made, by a run without an interpolation stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from cogvid.data.reading import probe
from cogvid.data.video import VideoWriter
from cogvid.generation import clips as clips_module
from helpers import cogvid, contents, sample

RED, BLUE = "a small red circle moves left", "a large blue square stands still"


@pytest.fixture(scope="module")
def long(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that goes on from its last frames."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("long") / "copy", symlinks=True))
    one_stage = ["name=long", "interpolation=sequential_overlap", "generation.samples=2", "evaluation.metrics={}"]
    result = cogvid("run", folder / "tiny.yaml", "--runs", folder / "runs", *one_stage)
    assert result.exit_code == 0, result.output
    return folder / "runs" / "long" / "default" / "0"


def test_a_long_clip_is_written_while_it_is_made(long: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    add, generate = VideoWriter.add, clips_module.generate_tokens
    monkeypatch.setattr(VideoWriter, "add", lambda self, frames: events.append("write") or add(self, frames))
    monkeypatch.setattr(clips_module, "generate_tokens", lambda *a, **k: events.append("make") or generate(*a, **k))
    sample(long, RED, BLUE, "--frames", "23", "--gif", "--out", tmp_path)
    # The image model, the key frames, and five windows of four new frames each, the last one of two.
    assert events.count("make") == 7
    assert events.index("write") < len(events) - events[::-1].index("make")
    for video in tmp_path.glob("*.mp4"):
        assert len(probe(video).times) == 23
        assert load_file(video.with_suffix(".safetensors"))["codes"].shape == (23, 16)
        request = json.loads(video.with_suffix(".json").read_text())
        assert request["seconds"] == 22 / 0.5  # at the scheduler's slowest rate, the final frames' own


def test_a_long_clip_is_the_same_in_its_videos_when_they_are_made_from_its_tokens(long: Path, tmp_path: Path) -> None:
    sample(long, RED, BLUE, "--frames", "23", "--gif", "--out", tmp_path)
    before = contents(tmp_path)
    for path in [*tmp_path.glob("*.mp4"), *tmp_path.glob("*.gif")]:
        path.unlink()
    sample(long, RED, BLUE, "--frames", "23", "--gif", "--out", tmp_path)
    assert contents(tmp_path) == before


def test_a_gif_of_a_long_clip_shows_some_of_its_frames(long: Path, tmp_path: Path) -> None:
    sample(long, RED, "--frames", "130", "--gif", "--no-sheet", "--out", tmp_path)
    (path,) = tmp_path.glob("*.gif")
    assert Image.open(path).n_frames <= 64


def test_going_on_from_the_last_frames_trains_no_interpolation_stage(long: Path) -> None:
    assert not (long / "stages" / "interpolation").exists()
    assert len(list((long / "samples" / "generated").glob("*.mp4"))) == 2
    # Clips of two seconds yield nine frames at four a second; the text of a window says what five of them last.
    rows = [json.loads(line) for line in (long / "samples" / "captions.jsonl").read_text().splitlines()]
    assert {row["rate"] for row in rows} == {4.0}
    assert probe(long / "samples" / "generated" / "0000.mp4").times.seconds[-1] == pytest.approx(2.0, rel=1e-3)
