"""Clips that go on from the first frames of real ones: in one window, and with rounds of interpolation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.generation.clips import ClipGenerator
from cogvid.pipeline.run import Run

# 5 frames given, 11 predicted, in one window at one rate.
WINDOW = [
    "name=window",
    "video.frames=16",
    "generation.frames=16",
    "generation.given=5",
    "interpolation=sequential_overlap",
    "frame_rate={name: fixed, options: {rate: 8}}",
    "data.options.durations=[2]",
]


class Finished:
    """A run, and the given frames that each call of the generator got."""

    def __init__(self, folder: Path, given: list[Tensor | None]) -> None:
        self.folder, self.given = folder, given
        self.tokens = load_file(folder / "samples" / "tokens.safetensors")


@pytest.fixture(scope="module")
def finish(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> Any:
    """Runs experiments whose stages share a folder."""
    home = tmp_path_factory.mktemp("given")
    (home / "tiny.yaml").write_text(tiny_text)
    short = [f"stages.{stage}.steps=2" for stage in ("tokenizer", "image_base", "sequential", "interpolation")]

    def run(*changes: str) -> Finished:
        given: list[Tensor | None] = []
        original = ClipGenerator.clips

        def spy(self: Any, *args: Any, **more: Any) -> Tensor:
            given.append(more.get("given", args[5] if len(args) > 5 else None))
            return original(self, *args, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ClipGenerator, "clips", spy)
            one = Run(load_experiment(home / "tiny.yaml", None, [*short, *changes]), home / "runs")
            one.finish()
        return Finished(one.folder, given)

    return run


@pytest.fixture(scope="module")
def window(finish: Any) -> Finished:
    return finish(*WINDOW)


def test_given_frames_are_those_of_the_real_clip_and_the_others_are_not(window: Finished) -> None:
    generated, real = window.tokens["generated"], window.tokens["real"]
    assert generated.shape == real.shape == (4, 16, 16)
    assert torch.equal(generated[:, :5], real[:, :5])
    assert all(not torch.equal(generated[:, frame], real[:, frame]) for frame in range(5, 16))


def test_one_window_needs_no_interpolation_stage(window: Finished) -> None:
    assert not (window.folder / "stages" / "interpolation").exists()
    metrics = json.loads((window.folder / "metrics.json").read_text())
    protocol = metrics["protocols"][metrics["sets"]["generated"]["oracle"]["protocol"]]
    assert (protocol["given"], protocol["frames"]) == (5, 16)


def test_previews_go_on_from_the_first_frames_of_test_clips(window: Finished) -> None:
    previews = window.given[:-1]
    assert len(previews) == 2  # of the image base and of the sequential stage
    for given in previews:
        assert given is not None
        assert torch.equal(given.int(), window.tokens["real"][:, :5])


def test_a_run_that_goes_on_from_real_clips_samples_no_prompt(window: Finished, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["sample", str(window.folder), "a red circle", "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "generation.given: the run's clips go on from 5 key frames of real ones" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()


def test_another_number_of_given_frames_makes_other_clips_and_trains_nothing(finish: Any, window: Finished) -> None:
    fewer = finish(*WINDOW, "name=fewer", "generation.given=2")
    for stage in ("sequential", "image_base", "tokens"):
        assert (fewer.folder / "stages" / stage).resolve() == (window.folder / "stages" / stage).resolve()
    assert (fewer.folder / "samples").resolve() != (window.folder / "samples").resolve()
    assert torch.equal(fewer.tokens["real"], window.tokens["real"])
    assert torch.equal(fewer.tokens["generated"][:, :2], fewer.tokens["real"][:, :2])
    assert not torch.equal(fewer.tokens["generated"][:, 2:5], fewer.tokens["real"][:, 2:5])


def test_given_key_frames_stand_at_their_places_in_a_clip_of_several_rounds(finish: Any) -> None:
    run = finish("name=rounds", "generation.given=2")
    generated, real = run.tokens["generated"], run.tokens["real"]
    assert generated.shape[1] == 9
    assert [torch.equal(generated[:, frame], real[:, frame]) for frame in range(9)] == [
        frame in (0, 2) for frame in range(9)
    ]


def test_where_all_key_frames_are_given_the_interpolation_model_is_trained_alone(finish: Any) -> None:
    run = finish("name=between", "generation.given=5", "stages.interpolation.start=base")
    stages = {path.name for path in (run.folder / "stages").iterdir()}
    assert {"image_base", "interpolation"} < stages
    assert "sequential" not in stages
    generated, real = run.tokens["generated"], run.tokens["real"]
    assert [torch.equal(generated[:, frame], real[:, frame]) for frame in range(9)] == [True, False] * 4 + [True]


def test_the_sequential_model_is_trained_where_the_interpolation_model_starts_from_it(finish: Any) -> None:
    run = finish("name=inherited", "generation.given=5")
    assert (run.folder / "stages" / "sequential").exists()
