"""What a user can do wrong, from the command line: one clear message, a non-zero exit, nothing lost."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from helpers import cogvid, refused

PROMPT = "a small red circle moves left"


@pytest.fixture(scope="module")
def run(finished: Path) -> Path:
    """The folder of a finished tiny run; tests that change it copy it."""
    return finished / "runs" / "tiny" / "default" / "0"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.layer=3", ["model.layer", "layers"]),
        ("model.layers=many", ["model.layers", "many"]),
        ("attention=locl3d", ["locl3d", "local3d"]),
        ("attention.options.extend=[1,1,1]", ["attention.options.extend", "extent"]),
        ("data={name: folder}", ["data.options.path"]),
        ("video.size=30", ["video.size", "30"]),
        ("generation.frames=11", ["11", "9", "17"]),
        ("plugins=[./nowhere.py]", ["nowhere.py"]),
    ],
)
def test_a_wrong_setting_is_named_before_anything_runs(
    tiny: Path, tmp_path: Path, override: str, words: list[str]
) -> None:
    refused(cogvid("run", tiny, "--runs", tmp_path / "runs", override), *words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("", ["empty"]), ("ein großer Kreis", ["'ß'"])],
)
def test_a_prompt_the_model_cannot_know_is_refused(run: Path, tmp_path: Path, prompt: str, words: list[str]) -> None:
    refused(cogvid("sample", run, prompt, "--out", tmp_path / "out"), *words)
    assert not list(tmp_path.glob("out/*"))


def test_a_sample_never_replaces_a_file(run: Path, tmp_path: Path) -> None:
    first = cogvid("sample", run, PROMPT, "--frames", "9", "--out", tmp_path)
    assert first.exit_code == 0, first.output
    (video,) = tmp_path.glob("*.mp4")
    before = video.read_bytes()
    again = cogvid("sample", run, PROMPT, "--frames", "9", "--out", tmp_path)
    assert again.exit_code == 0, again.output
    refused(cogvid("sample", run, PROMPT, "--frames", "17", "--out", tmp_path), video.stem, "another clip")
    assert video.read_bytes() == before


def test_frames_that_the_strategy_cannot_reach_are_refused_with_those_it_can(run: Path, tmp_path: Path) -> None:
    refused(cogvid("sample", run, PROMPT, "--frames", "11", "--out", tmp_path), "11", "9", "17")


def test_a_plan_that_the_interpolation_model_is_not_trained_for_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text("""
import cogvid
class Pairs(cogvid.InterpolationStrategy):
    def plan(self, key_frames, target):
        windows = tuple(cogvid.Window((i, i + 1, i + 2), (True, False, True)) for i in range(0, target - 1, 2))
        return [cogvid.Round(windows, rate_factor=2.0)]
@cogvid.hookimpl
def register_interpolation_strategies():
    return {"pairs": Pairs}
""")
    changes = [f"plugins=[{tmp_path}/pairs.py]", "interpolation=pairs"]
    refused(cogvid("run", tiny, "--runs", tmp_path / "runs", *changes), "pairs plans a window", "5 frames")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    refused(cogvid("sample", tmp_path, PROMPT), "config.yaml")


def test_weights_of_another_shape_are_refused_by_the_tensors_name(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("layers: 2", "layers: 3"))
    path = tmp_path / "run" / "stages" / "image_base" / "model.safetensors"
    refused(cogvid("sample", tmp_path / "run", PROMPT, "--out", tmp_path), "blocks.2.", str(path))


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = HuggingFaceStorageWriter.write_data, []

    def fill_up(writer: HuggingFaceStorageWriter, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            Path(writer.path, "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(writer, *arguments)

    monkeypatch.setattr(HuggingFaceStorageWriter, "write_data", fill_up)
    refused(cogvid("run", tiny, "--runs", tmp_path / "runs"), "No space left", "checkpoints", "run the command again")
    (kept,) = (tmp_path / "runs").glob("stages/tokenizer-*/checkpoints/*")
    assert kept.name == "step-00000002"
    monkeypatch.undo()
    assert cogvid("run", tiny, "--runs", tmp_path / "runs").exit_code == 0


def test_a_broken_clip_is_left_out_and_named(tiny: Path, tmp_path: Path, run: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(run / "stages" / "data" / "clips", videos)
    names = sorted(path.name for path in videos.iterdir())
    (videos / names[0]).write_bytes(b"not a video")
    lines = [f'{{"file": "{name}", "caption": "clip {name[:4]}"}}\n' for name in [*names, "missing.mp4"]]
    (videos / "captions.jsonl").write_text("".join(lines))
    changes = [
        f"data={{name: folder, options: {{path: {videos}, test_share: 0.4}}}}",
        "evaluation.metrics={}",
    ]
    result = cogvid("run", tiny, "--runs", tmp_path / "runs", "generation.samples=1", *changes)
    assert result.exit_code == 0, result.output
    log = (tmp_path / "runs" / "tiny" / "default" / "0" / "log.txt").read_text()
    assert names[0].removesuffix(".mp4") in log
    assert "missing" in log


def test_a_metric_without_real_clips_left_to_compare_with_has_no_value(tiny: Path, tmp_path: Path, run: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(run / "stages" / "data" / "clips", videos)
    names = sorted(path.name for path in videos.iterdir())
    lines = [
        f'{{"file": "{name}", "caption": "clip {name[:4]}", "split": "{split}"}}\n'
        for name, split in zip(names, ["test", *["train"] * len(names)], strict=False)
    ]
    (videos / "captions.jsonl").write_text("".join(lines))
    changes = [
        f"data={{name: folder, options: {{path: {videos}}}}}",
        "evaluation.metrics={}",
        "evaluation.metrics={fvd: {name: fvd}}",
        "generation.samples=1",
    ]
    result = cogvid("run", tiny, "--runs", tmp_path / "runs", *changes)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "runs" / "tiny" / "default" / "0" / "metrics.json").read_text())
    assert metrics["sets"]["generated"]["fvd"]["values"]["fvd"] is None


def test_only_broken_clips_end_the_run(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "a", "split": "train"}\n')
    changes = [f"data={{name: folder, options: {{path: {tmp_path}}}}}"]
    refused(cogvid("run", tiny, "--runs", tmp_path / "runs", *changes), "none of the 1 clips")
