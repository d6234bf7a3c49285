"""What an experiment's strategy asks of its models, its frame rates and its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cogvid.config.compose import load_experiment
from cogvid.data.frame_format import FrameFormat
from cogvid.errors import UserError
from cogvid.interfaces.grid import Grid
from cogvid.pipeline.lab import Lab

EXPERIMENT = """
base: [model/small, attention/local3d, frame_rate/lowest_fit, data/shapes, trainer/cpu]
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
stages:
  tokenizer: {steps: 1, batch_size: 1}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
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


# A scheduler with rates of its own to generate through.
TOLD = """
import cogvid
class Told(cogvid.FrameRateScheduler):
    def training_rates(self, duration, frames):
        return [1.0]
    def generation_rates(self, duration, frames, rounds):
        return RATES
@cogvid.hookimpl
def register_frame_rate_schedulers():
    return {"told": Told}
"""


RATES = "frame_rate: {name: lowest_fit, options: {rates: [1, 2, 4]}}\nplugins: [./both.py]\n"


def lab(folder: Path, strategy: str, frames: int, more: str = RATES, changes: Sequence[str] = ()) -> Lab:
    (folder / "both.py").write_text(BOTH)
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT + f"interpolation: {strategy}\ngeneration: {{frames: {frames}}}\n" + more)
    return Lab(load_experiment(path, overrides=changes).config)


def test_the_grid_has_the_rows_and_columns_of_the_frames(tmp_path: Path) -> None:
    made = lab(tmp_path, "recursive", 17, changes=["video.size=[16,24]", "video.fit=pad"])
    assert made.grid == Grid(5, 2, 3)
    assert made.frame_format == FrameFormat(16, 24, "pad")
    for size, words in (("[16,20]", "the width of 20"), ("[20,16]", "the height of 20")):
        with pytest.raises(UserError, match=rf"video\.size: {words} pixels is not a multiple of .* 8 pixels a token"):
            lab(tmp_path, "recursive", 17, changes=[f"video.size={size}"])


def test_guidance_without_captions_left_out_is_refused_by_both_keys(tmp_path: Path) -> None:
    stages = {"first_frame": "image_base", "sequential": "sequential", "interpolation": "interpolation"}
    for part, stage in stages.items():
        guided = [f"generation.{part}.guidance=2"]
        with pytest.raises(UserError, match=rf"generation\.{part}\.guidance: .* stages\.{stage}\.caption_dropout is 0"):
            lab(tmp_path, "recursive", 17, changes=guided)
        lab(tmp_path, "recursive", 17, changes=[*guided, f"stages.{stage}.caption_dropout=0.1"])


def test_the_configuration_of_the_release_is_trained_for_its_guidance(tmp_path: Path) -> None:
    (tmp_path / "released.yaml").write_text(EXPERIMENT.replace("model/small", "model/cogvideo") + RATES)
    (tmp_path / "both.py").write_text(BOTH)
    made = Lab(load_experiment(tmp_path / "released.yaml", overrides=["interpolation=recursive"]).config)
    assert made.config.generation.sequential.guidance == 3
    assert made.config.stages.sequential.caption_dropout == 0.1


def test_guidance_of_a_model_that_generates_nothing_is_no_mistake(tmp_path: Path) -> None:
    lab(tmp_path, "hold", 17, changes=["generation.interpolation.guidance=2"])
    lab(tmp_path, "hold", 17, changes=["generation.first_frame.guidance=2", "generation.image_model_first=false"])


def told(folder: Path, rates: str, strategy: str = "recursive") -> Lab:
    """With two doublings, generated through these rates."""
    (folder / "told.py").write_text(TOLD.replace("RATES", rates))
    return lab(folder, strategy, 17, "plugins: [./both.py, ./told.py]\nframe_rate: {name: told, options: {}}\n")


def test_guidance_of_a_first_frame_that_is_given_is_no_mistake(tmp_path: Path) -> None:
    guided = "generation.first_frame.guidance=3"
    with pytest.raises(UserError, match="first_frame"):
        lab(tmp_path, "hold", 5, changes=[guided])
    lab(tmp_path, "hold", 5, changes=[guided, "generation.given=1"])


def test_all_key_frames_are_given_only_where_a_model_makes_others(tmp_path: Path) -> None:
    given = "generation.given=5"
    alone = lab(tmp_path, "recursive", 9, changes=[given, "generation.sequential.guidance=3"])
    assert alone.interpolates
    assert not alone.generates_sequentially
    assert lab(tmp_path, "recursive", 9, changes=["generation.given=4"]).generates_sequentially
    assert lab(tmp_path, "sequential_overlap", 9, changes=[given]).generates_sequentially
    for name, frames in (("hold", 9), ("recursive", 5), ("sequential_overlap", 5)):
        with pytest.raises(UserError, match=rf"generation\.given: all 5 .* and {name} has no model generate another"):
            lab(tmp_path, name, frames, changes=[given])


def test_spread_key_frames_set_the_rate_of_the_clip(tmp_path: Path) -> None:
    made = lab(tmp_path, "recursive", 17)
    assert (made.places, made.clip_intervals, made.interpolates) == ([0, 4, 8, 12, 16], 4, True)
    assert [made.clip_rates(seconds)[:1] for seconds in (5.0, 4.0, 2.0, 1.0, 0.9)] == [[1], [1], [2], [4], []]
    assert made.clip_rates(2.0) == [2, 4, 8]
    assert made.window_times == [
        *((i, i + 0.5, i + 1, i + 1.5, i + 2) for i in (0, 2)),
        *((i, i + 0.25, i + 0.5, i + 0.75, i + 1) for i in (0, 1, 2, 3)),
    ]


def test_overlapping_windows_need_a_rate_at_which_the_clip_has_all_its_frames(tmp_path: Path) -> None:
    made = lab(tmp_path, "sequential_overlap", 23)
    assert (made.places, made.clip_intervals, made.interpolates) == ([0, 1, 2, 3, 4], 22, False)
    # Every window is at the rate of the key frames, too.
    rounds = len(made.plan)
    assert rounds == 5
    for seconds, rate in ((22.0, 1), (21.9, 2), (5.5, 4)):
        assert made.clip_rates(seconds) == [rate] * (1 + rounds)
    assert made.clip_rates(5.4) == []
    # A window of the sequential stage is shown as the key frames are.
    assert made.window_times == []


def test_windows_behind_the_key_frames_are_trained_between_them(tmp_path: Path) -> None:
    made = lab(tmp_path, "both", 17)
    assert (made.clip_intervals, made.interpolates) == (8, True)
    assert made.clip_rates(8.0) == [1, 1, 2]
    assert made.window_times == [(0, 0.5, 1, 1.5, 2), (2, 2.5, 3, 3.5, 4)]


@pytest.mark.parametrize(("frames", "words"), [(4, "5 key frames do not fit into 4 frames"), (16, "wanted")])
def test_frames_that_a_strategy_does_not_make_are_refused(tmp_path: Path, frames: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lab(tmp_path, "sequential_overlap" if frames == 4 else "both", frames)


def test_the_scheduler_decides_the_rate_of_every_round(tmp_path: Path) -> None:
    assert told(tmp_path, "[1.0, 3.0, 7.5]").clip_rates(8.0) == [1, 3, 7.5]


def test_rounds_of_the_sequential_stage_go_at_the_rate_of_the_key_frames(tmp_path: Path) -> None:
    assert told(tmp_path, "[1.0, 3.0]", "both").clip_rates(8.0) == [1, 1, 3]


@pytest.mark.parametrize("rates", ["[1.0]", "[1.0, 2.0, 4.0, 8.0]", "[1.0, 2.0, 0.0]", "[1.0, 2.0, float('nan')]"])
def test_rates_that_a_scheduler_cannot_mean_are_refused_when_the_experiment_is_read(tmp_path: Path, rates: str) -> None:
    with pytest.raises(UserError, match=r"frame_rate: told would .* it must give 3, all above 0"):
        told(tmp_path, rates)


def test_of_all_plugins_that_are_named_those_count_whose_components_are_used(tmp_path: Path) -> None:
    (tmp_path / "told.yaml").write_text("plugins: [./told.py]\n")
    (tmp_path / "told.py").write_text(TOLD.replace("RATES", "[1.0]"))
    lab(tmp_path, "hold", 9, RATES)
    path = tmp_path / "experiment.yaml"
    path.write_text(path.read_text().replace("base: [", "base: [told, ") + "variants: {told: {frame_rate: told}}\n")
    without, with_it = (Lab(load_experiment(path, variant).config).used() for variant in (None, "told"))
    assert [part["plugin"] for part in without if part["plugin"].endswith(".py")] == []
    assert [(part["name"], part["plugin"]) for part in with_it if part["kind"] == "frame_rate"] == [("told", "told.py")]
