"""The experiments that come with cogvid: each loads, is built without a file or a weight, and says how it is run."""

from __future__ import annotations

import pytest
import torch

from cogvid.config.compose import load_experiment
from cogvid.config.schema import InterpolationStart
from cogvid.config.sources import shipped
from cogvid.interfaces.grid import Grid
from cogvid.pipeline.lab import Lab

EXPERIMENTS = sorted(path.stem for path in (shipped() / "experiments").glob("*.yaml"))
FULL_SIZE = ["cogvideo", "cogvideo_stage1", "cogvideo_stage2"]
# Tokens of the release: of images, of its text file, and the special ones behind them.
VOCABULARY = 150010


def built(name: str) -> Lab:
    resolved = load_experiment(name)
    with torch.device("meta"):
        return Lab(resolved.config, resolved.provenance)


def parameters(lab: Lab, stage: str, vocabulary: int) -> int:
    with torch.device("meta"):
        network = lab.image_model(vocabulary) if stage == "image_base" else lab.video_model(stage, vocabulary)  # type: ignore[arg-type]
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_built_without_a_file(name: str) -> None:
    for variant in (None, *load_experiment(name).variants):
        resolved = load_experiment(name, variant)
        with torch.device("meta"):
            lab = Lab(resolved.config, resolved.provenance)
        assert lab.grid.tokens > 0


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_how_it_is_run_and_how_long_it_takes(name: str) -> None:
    lines = (shipped() / "experiments" / f"{name}.yaml").read_text().splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert f"cogvid run {name}" in " ".join(header) or f"cogvid ablate {name}" in " ".join(header)
    said = {line.split(":")[0].removeprefix("# ") for line in header if ":" in line}
    assert {"Command", "Runtime"} <= said
    if name not in ("quickstart", "shapes") and not name.startswith("ablation_"):
        assert {"Model", "Memory", "Steps", "Result"} <= said


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_full_size_is_that_of_the_release(name: str) -> None:
    lab = built(name)
    assert (lab.grid, lab.codes) == (Grid(5, 20, 20), 20000)
    image = parameters(lab, "image_base", VOCABULARY)
    plus = parameters(lab, "sequential", VOCABULARY) - image
    assert round(image / 1e9, 1) == 5.9
    assert 1.81e9 < plus < 1.82e9
    assert round((image + 2 * plus) / 1e9, 1) == 9.5
    config = lab.config
    assert config.text.positions == 512
    for stage in (config.stages.sequential, config.stages.interpolation):
        assert (stage.adam_lr, stage.betas, stage.clip_norm) == (2e-4, [0.9, 0.95], 0.1)
    # What the release froze is not trained here.
    for frozen in (config.stages.tokenizer, config.stages.image_base):
        assert frozen.weights is not None


def test_each_stage_of_the_full_size_can_be_trained_alone() -> None:
    first, second, both = (built(name) for name in ("cogvideo_stage1", "cogvideo_stage2", "cogvideo"))
    assert (first.generates_sequentially, first.interpolates) == (True, False)
    assert (second.generates_sequentially, second.interpolates) == (False, True)
    assert second.config.stages.interpolation.start is InterpolationStart.base
    assert (both.generates_sequentially, both.interpolates) == (True, True)
    assert len(both.plan) == 3
    assert both.config.stages.interpolation.start is InterpolationStart.sequential
    assert first.config.stages.sequential == both.config.stages.sequential


def test_frame_prediction_is_one_window_of_the_sequential_model() -> None:
    lab = built("kinetics600")
    assert (lab.config.generation.given, lab.config.video.frames, lab.config.generation.frames) == (5, 16, 16)
    assert lab.config.video.sides == (64, 64)
    assert lab.places == list(range(16))
    assert lab.plan == []
    assert not lab.interpolates
