"""The whole way, tiny: what a run leaves, what it shares, and how it goes on after being killed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
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


def finish(experiment: Path, runs: Path, *overrides: str, variant: str | None = None) -> Path:
    run = Run(load_experiment(str(experiment), variant, list(overrides)), runs)
    run.finish()
    return run.folder


def again(copied: Path, *overrides: str, variant: str | None = None) -> Path:
    """Finish a run where the experiment's own has left its stages; its folder."""
    return finish(copied / "tiny.yaml", copied / "runs", *overrides, variant=variant)


def test_a_run_leaves_everything_that_describes_it(finished: Path) -> None:
    folder = finished / "runs" / "tiny" / "default" / "0"
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


def test_variants_share_every_stage_that_does_not_depend_on_what_they_change(copied: Path) -> None:
    folders = [again(copied, variant=name) for name in ("local", "all")]
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


def test_a_finished_run_is_not_run_again(copied: Path) -> None:
    folder = copied / "runs" / "tiny" / "default" / "0"
    before = {path: path.stat().st_mtime_ns for path in (folder / "stages").glob("*/stage.json")}
    assert again(copied) == folder
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "stages").glob("*/stage.json")}


def test_a_run_folder_of_another_config_is_refused_and_kept(copied: Path) -> None:
    folder = copied / "runs" / "tiny" / "default" / "0"
    metrics = (folder / "metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"stages\.sequential\.steps was 6, is now 7"):
        again(copied, "stages.sequential.steps=7")
    assert (folder / "metrics.json").read_bytes() == metrics


def test_a_run_goes_on_with_another_exact_decoding_and_with_no_other(copied: Path, hasty: Path) -> None:
    tiny, runs, now = copied / "tiny.yaml", copied / "runs", "generation.decoding"
    folder = runs / "tiny" / "default" / "0"
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
    tiny: Path, tmp_path: Path, finished: Path, fork: Callable[..., Any]
) -> None:
    words = ["run", tiny, "--runs", tmp_path / "killed"]
    whole = finished / "runs" / "tiny" / "default" / "0"
    for workers, stage in zip((2, 0, 2, 1), ("tokenizer", "image_base", "sequential", "interpolation"), strict=True):
        kill_after_checkpoint(fork(*words, f"trainer.workers={workers}"), tmp_path / "killed" / "stages", stage)
    process = fork(*words)
    assert process.wait(120) == 0, process.communicate()
    killed = tmp_path / "killed" / "tiny" / "default" / "0"
    assert json.loads((killed / "stages/sequential/stage.json").read_text())["resumed"]
    for stage in ("tokenizer", "image_base", "sequential", "interpolation"):
        model = f"stages/{stage}/model.safetensors"
        assert (killed / model).read_bytes() == (whole / model).read_bytes(), stage
        history = f"stages/{stage}/history.jsonl"
        assert (killed / history).read_text() == (whole / history).read_text()
    values = [json.loads((folder / "metrics.json").read_text())["sets"] for folder in (whole, killed)]
    assert values[0] == values[1]


def kill_after_checkpoint(process: Any, stages: Path, stage: str) -> None:
    """Kill -9 a run once the stage has written a checkpoint."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if list(stages.glob(f"{stage}-*/checkpoints/step-*")):
            process.kill()
            process.wait()
            return
        time.sleep(0.005)  # what looks all the time takes a processor away from who trains
    pytest.fail(f"{stage} left no checkpoint to be killed at: {process.communicate(1)}")


PLUGIN = """
import cogvid


class Cross(cogvid.AttentionBackend):
    def pattern(self, query, key, layer):
        return (query.row == key.row) | (query.column == key.column)


@cogvid.hookimpl
def register_attention_backends():
    return {"cross": Cross}
"""


def test_an_attention_plugin_in_one_file_trains_and_samples(copied: Path, tmp_path: Path) -> None:
    (copied / "my_attention.py").write_text(PLUGIN)
    with (copied / "tiny.yaml").open("a") as file:
        file.write("plugins: [./my_attention.py]\nattention: cross\nname: crossed\n")
    folder = again(copied)
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


def test_a_strategy_without_a_model_trains_no_interpolation_stage(copied: Path) -> None:
    (trained,) = (copied / "runs" / "stages").glob("interpolation-*")
    shutil.rmtree(trained)
    folder = again(copied, "name=held", "interpolation=hold")
    assert not list((copied / "runs" / "stages").glob("interpolation-*"))
    assert not (folder / "stages" / "interpolation").exists()
    metrics = json.loads((folder / "metrics.json").read_text())["sets"]
    assert metrics["generated"] == metrics["hold"]


def test_the_image_tokenizer_of_the_release_is_taken_as_it_is(copied: Path, tmp_path: Path) -> None:
    options = {"channels": 32, "features": 16, "codes": 40, "code_size": 16}
    weights = create_component("frame_tokenizer", "released_vqvae", options).state_dict()
    save_file(weights, tmp_path / "image.safetensors")
    folder = again(
        copied,
        "name=released",
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


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs that share longer clips."""
    return tmp_path_factory.mktemp("longer")


@pytest.mark.parametrize(("key_frames", "frames"), [(3, 9), (7, 13), (9, 17)])
def test_recursive_trains_and_generates_with_any_odd_number_of_key_frames(
    tiny: Path, longer: Path, key_frames: int, frames: int
) -> None:
    shorter = [f"stages.{stage}.steps=1" for stage in ("tokenizer", "image_base", "sequential", "interpolation")]
    more = ["data.options.durations=[2,3]", f"video.frames={key_frames}", f"generation.frames={frames}"]
    more += [f"name=of{key_frames}", "generation.samples=2", "evaluation.metrics={}"]
    folder = finish(tiny, longer, *shorter, *more)
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
