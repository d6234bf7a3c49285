"""What an experiment's strategy asks of its models, its frame rates and its training."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvid.config.compose import load_experiment
from cogvid.pipeline.lab import Lab

EXPERIMENT = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, data/shapes, trainer/cpu]
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
stages:
  tokenizer: {steps: 1, batch_size: 1}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
frame_rate: {name: lowest_fit, options: {rates: [1, 2, 4]}}
plugins: [./both.py]
"""
# Key frames of half the clip, the other half behind them, then the frames between.
BOTH = """
import cogvid
class Both(cogvid.InterpolationStrategy):
    def key_frame_places(self, key_frames, target):
        return [2 * i for i in range(key_frames)]
    def plan(self, key_frames, target):
        later = cogvid.Window((8, 10, 12, 14, 16), (True, False, False, False, False))
        between = tuple(cogvid.Window(tuple(range(i, i + 5)), (True, False) * 2 + (True,)) for i in (0, 4, 8, 12))
        return [cogvid.Round((later,), 1.0, "sequential"), cogvid.Round(between, 2.0)]
@cogvid.hookimpl
def register_interpolation_strategies():
    return {"both": Both}
"""


def lab(folder: Path, strategy: str, frames: int) -> Lab:
    (folder / "both.py").write_text(BOTH)
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT + f"interpolation: {strategy}\ngeneration: {{frames: {frames}}}\n")
    return Lab(load_experiment(path).config)


def test_spread_key_frames_set_the_rate_of_the_clip(tmp_path: Path) -> None:
    made = lab(tmp_path, "recursive", 17)
    assert (made.places, made.clip_intervals, made.interpolates) == ([0, 4, 8, 12, 16], 4, True)
    assert [made.clip_rate(seconds) for seconds in (5.0, 4.0, 2.0, 1.0, 0.9)] == [1, 1, 2, 4, None]
    assert made.window_times == [
        *((i, i + 0.5, i + 1, i + 1.5, i + 2) for i in (0, 2)),
        *((i, i + 0.25, i + 0.5, i + 0.75, i + 1) for i in (0, 1, 2, 3)),
    ]


def test_overlapping_windows_need_a_rate_at_which_the_clip_has_all_its_frames(tmp_path: Path) -> None:
    made = lab(tmp_path, "sequential_overlap", 23)
    assert (made.places, made.clip_intervals, made.interpolates) == ([0, 1, 2, 3, 4], 22, False)
    assert [made.clip_rate(seconds) for seconds in (22.0, 21.9, 5.5, 5.4)] == [1, 2, 4, None]
    # A window of the sequential stage is shown as the key frames are.
    assert made.window_times == []


def test_windows_behind_the_key_frames_are_trained_between_them(tmp_path: Path) -> None:
    made = lab(tmp_path, "both", 17)
    assert (made.clip_intervals, made.interpolates) == (8, True)
    assert made.clip_rate(8.0) == 1
    assert made.window_times == [(0, 0.5, 1, 1.5, 2), (2, 2.5, 3, 3.5, 4)]


@pytest.mark.parametrize(("frames", "words"), [(4, "5 key frames do not fit into 4 frames"), (16, "wanted")])
def test_frames_that_a_strategy_does_not_make_are_refused(tmp_path: Path, frames: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lab(tmp_path, "sequential_overlap" if frames == 4 else "both", frames)
