"""The whole way, tiny: what a run leaves, what it shares, and how it goes on after being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cogvid import create_component
from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.generation.clips import ClipGenerator
from cogvid.pipeline.run import Run

COMMAND = [sys.executable, "-c", "from cogvid.cli import main; main()"]


def finish(experiment: Path, runs: Path, *overrides: str, variant: str | None = None) -> Path:
    run = Run(load_experiment(str(experiment), variant, list(overrides)), runs)
    run.finish()
    return run.folder


def test_a_run_leaves_everything_that_describes_it(tiny: Path, tmp_path: Path) -> None:
    folder = finish(tiny, tmp_path / "runs")
    for name in ("config.yaml", "plugins.json", "environment.json", "metrics.json", "log.txt"):
        assert (folder / name).is_file()
    stages = {path.name for path in (folder / "stages").iterdir()}
    assert stages == {
        "data",
        "text_tokenizer",
        "tokenizer",
        "tokens",
        "test_tokens",
        "image_base",
        "sequential",
        "interpolation",
    }
    for stage in ("tokenizer", "image_base", "sequential", "interpolation"):
        steps = [json.loads(line)["step"] for line in (folder / "stages" / stage / "history.jsonl").open()]
        assert steps == [1, 2, 3, 4, 5, 6]
        assert not (folder / "stages" / stage / "checkpoints").exists()
    tokens = json.loads((folder / "stages" / "test_tokens" / "stage.json").read_text())
    assert tokens["clips"] == 16
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["sets"].keys() == {"generated", "key_frames", "hold", "linear", "real", "reconstruction"}
    assert metrics["sets"]["real"]["oracle"]["values"]["all"] == 1
    frames = {name: list(held_out["frames"]) for name, held_out in metrics["held_out"].items()}
    sequential, between = ["1", "2", "3", "4"], ["1", "3"]
    assert frames == {"tokenizer": [], "image_base": ["0"], "sequential": sequential, "interpolation": between}
    for name, held_out in metrics["held_out"].items():
        last = json.loads((folder / "stages" / name / "history.jsonl").read_text().splitlines()[-1])
        assert held_out["loss"] == last["held_out"] > 0
        assert held_out["on"]["samples"] == 16
    assert len(list((folder / "samples" / "generated").glob("*.mp4"))) == 4


def test_variants_share_every_stage_that_does_not_depend_on_what_they_change(tiny: Path, tmp_path: Path) -> None:
    folders = [finish(tiny, tmp_path / "runs", variant=name) for name in ("local", "all")]
    shared = {
        name: len({(folder / "stages" / name).resolve() for folder in folders})
        for name in ("data", "tokenizer", "tokens", "image_base", "sequential", "interpolation")
    }
    assert shared == {
        "data": 1,
        "tokenizer": 1,
        "tokens": 1,
        "image_base": 1,
        "sequential": 2,
        "interpolation": 2,
    }


def test_a_finished_run_is_not_run_again(tiny: Path, tmp_path: Path) -> None:
    folder = finish(tiny, tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").glob("*/stage.json")}
    finish(tiny, tmp_path / "runs")
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "stages").glob("*/stage.json")}


def test_a_run_folder_of_another_config_is_refused_and_kept(tiny: Path, tmp_path: Path) -> None:
    folder = finish(tiny, tmp_path / "runs")
    metrics = (folder / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"stages\.sequential\.steps was 6, is now 7"):
        finish(tiny, tmp_path / "runs", "stages.sequential.steps=7")
    assert (folder / "metrics.json").read_bytes() == metrics


def test_a_run_goes_on_with_another_exact_decoding_and_with_no_other(tiny: Path, tmp_path: Path, hasty: Path) -> None:
    runs, now = tmp_path / "runs", "generation.decoding"
    folder = finish(tiny, runs)
    samples = (folder / "samples").resolve()
    config = folder / "config.yaml"
    before = OmegaConf.load(config)
    del before.generation.decoding  # as a run was saved before decodings had names
    OmegaConf.save(before, config)
    with pytest.raises(UserError, match=r"generation\.decoding\.name was None, is now hasty"):
        Run(load_experiment(tiny, None, [f"plugins=[{hasty}]", f"{now}.name=hasty"]), runs)
    for changes in ([f"{now}.options.window=3"], [f"{now}.name=scheduled"]):
        assert (finish(tiny, runs, *changes) / "samples").resolve() == samples
    config.write_text(config.read_text().replace("name: scheduled", "name: hasty"))
    with pytest.raises(UserError, match=r"generation\.decoding\.name was hasty, is now fixed_point"):
        Run(load_experiment(tiny), runs)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_run_killed_in_each_stage_ends_as_an_uninterrupted_one_with_any_number_of_workers(
    tiny: Path, tmp_path: Path
) -> None:
    command = [*COMMAND, "run", str(tiny), "--runs", str(tmp_path / "killed"), "--variant", "local"]
    whole = finish(tiny, tmp_path / "whole", variant="local")
    for workers, stage in zip((2, 0, 2, 1), ("tokenizer", "image_base", "sequential", "interpolation"), strict=True):
        kill_after_checkpoint([*command, f"trainer.workers={workers}"], tmp_path / "killed" / "stages", stage)
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    killed = tmp_path / "killed" / "tiny" / "local" / "0"
    assert json.loads((killed / "stages/sequential/stage.json").read_text())["resumed"]
    for stage in ("tokenizer", "image_base", "sequential", "interpolation"):
        model = f"stages/{stage}/model.safetensors"
        assert (killed / model).read_bytes() == (whole / model).read_bytes(), stage
        history = f"stages/{stage}/history.jsonl"
        assert (killed / history).read_text() == (whole / history).read_text()
    values = [json.loads((folder / "metrics.json").read_text())["sets"] for folder in (whole, killed)]
    assert values[0] == values[1]


def kill_after_checkpoint(command: list[str], stages: Path, stage: str) -> None:
    """Start the run, and kill -9 it once the stage has written a checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if list(stages.glob(f"{stage}-*/checkpoints/step-*")):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return
    pytest.fail(f"{stage} left no checkpoint to be killed at")


PLUGIN = """
import cogvid


class Cross(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return (query.row == key.row) | (query.column == key.column)


@cogvid.hookimpl
def register_attention_backends():
    return {"cross": Cross}
"""


def test_an_attention_plugin_in_one_file_trains_and_samples(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "my_attention.py").write_text(PLUGIN)
    tiny.write_text(tiny.read_text() + "plugins: [./my_attention.py]\nattention: cross\n")
    folder = finish(tiny, tmp_path / "runs")
    result = CliRunner().invoke(
        app,
        [
            "sample",
            str(folder),
            "a small red circle moves left",
            "--frames",
            "9",
            "--out",
            str(tmp_path / "out"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


def test_a_strategy_without_a_model_trains_no_interpolation_stage(tiny: Path, tmp_path: Path) -> None:
    folder = finish(tiny, tmp_path / "runs", "interpolation=hold")
    assert not (folder / "stages" / "interpolation").exists()
    metrics = json.loads((folder / "metrics.json").read_text())["sets"]
    assert metrics["generated"] == metrics["hold"]


def test_the_image_tokenizer_of_the_release_is_taken_as_it_is(tiny: Path, tmp_path: Path) -> None:
    options = {"channels": 32, "features": 16, "codes": 40, "code_size": 16}
    weights = create_component("frame_tokenizer", "released_vqvae", options).state_dict()
    save_file(weights, tmp_path / "image.safetensors")
    folder = finish(
        tiny,
        tmp_path / "runs",
        f"frame_tokenizer={{name: released_vqvae, options: {options}}}".replace("'", ""),
        f"stages.tokenizer={{weights: {tmp_path}/image.safetensors, clusters: 8}}",
        *(f"stages.{stage}.steps=1" for stage in ("image_base", "sequential", "interpolation")),
        "generation.first_frame.clusters=true",
        "generation.samples=2",
    )
    stage = folder / "stages" / "tokenizer"
    kept = load_file(stage / "model.safetensors")
    assert kept.keys() == weights.keys()
    assert all((kept[name] == weights[name]).all() for name in weights)
    assert load_file(stage / "clusters.safetensors")["clusters"].max() == 7
    assert load_file(folder / "samples" / "tokens.safetensors")["generated"].max() < 40


@pytest.mark.parametrize(("key_frames", "frames"), [(3, 9), (7, 13), (9, 17)])
def test_recursive_trains_and_generates_with_any_odd_number_of_key_frames(
    tiny: Path, tmp_path: Path, key_frames: int, frames: int
) -> None:
    shorter = [f"stages.{stage}.steps=1" for stage in ("tokenizer", "image_base", "sequential", "interpolation")]
    longer = ["data.options.durations=[2,3]", f"video.frames={key_frames}", f"generation.frames={frames}"]
    folder = finish(tiny, tmp_path / "runs", "generation.samples=2", "evaluation.metrics={}", *shorter, *longer)
    assert json.loads((folder / "stages" / "interpolation" / "stage.json").read_text())["steps"] == 1
    codes = load_file(folder / "samples" / "tokens.safetensors")
    assert codes["generated"].shape[:2] == (2, frames)
    assert codes["key_frames"].shape[:2] == (2, key_frames)


def test_rounds_are_told_the_rates_of_the_scheduler(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fivefold.py").write_text("""
import cogvid
class Fivefold(cogvid.FrameRateScheduler):
    def training_rates(self, duration, frames):
        return [4.0] if duration >= 1 else []
    def generation_rates(self, duration, frames, rounds):
        return [rate * 5**k for rate in self.training_rates(duration, frames) for k in range(rounds + 1)]
@cogvid.hookimpl
def register_frame_rate_schedulers():
    return {"fivefold": Fivefold}
""")
    told: set[float] = set()
    original = ClipGenerator._generate

    def spy(self: Any, model: Any, sampling: Any, batch: Any, *more: Any) -> Any:
        told.update(batch.seconds)
        return original(self, model, sampling, batch, *more)

    monkeypatch.setattr(ClipGenerator, "_generate", spy)
    short = [f"stages.{stage}.steps=1" for stage in ("tokenizer", "image_base", "sequential", "interpolation")]
    changes = [f"plugins=[{tmp_path}/fivefold.py]", "frame_rate={name: fivefold, options: {}}", *short]
    folder = finish(tiny, tmp_path / "runs", "generation.samples=1", "evaluation.metrics={}", *changes)
    # A first frame has no duration, five frames have four intervals.
    assert told == {0, 4 / 4, 4 / 20}
    told.clear()
    result = CliRunner().invoke(app, ["sample", str(folder), "a red circle", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert told == {0, 4 / 4, 4 / 20}
