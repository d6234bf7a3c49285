"""`cogvid sample`: which clips it makes, what they are called, and that it goes on after being killed."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner, Result

from cogvid.cli import app
from cogvid.data.reading import probe
from cogvid.data.video import VideoWriter
from cogvid.generation import clips as clips_module
from cogvid.inspect import run_clip
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.clip_files import Request

RED, BLUE = "a small red circle moves left", "a large blue square stands still"
FILES = (".gif", ".json", ".mp4", ".safetensors")


@pytest.fixture(scope="module")
def runs(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two finished runs: one interpolates, the other goes on from its last frame."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("sample") / "copy", symlinks=True))
    one_stage = ["name=long", "interpolation=sequential_overlap", "generation.samples=2", "evaluation.metrics={}"]
    result = cogvid("run", folder / "tiny.yaml", "--runs", folder / "runs", *one_stage)
    assert result.exit_code == 0, result.output
    return folder / "runs"


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    return runs / "tiny" / "default" / "0"


@pytest.fixture(scope="module")
def long(runs: Path) -> Path:
    return runs / "long" / "default" / "0"


def cogvid(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], input=stdin)


def sample(*words: object, stdin: str | None = None) -> None:
    result = cogvid("sample", *words, stdin=stdin)
    assert result.exit_code == 0, result.output


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def requests(folder: Path) -> list[tuple[str, int]]:
    """Prompt and sample of all clips in a folder, sorted."""
    said = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted((request["prompt"], request["sample"]) for request in said)


def no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: object, **__: object) -> None:
        pytest.fail("a clip was generated again")

    monkeypatch.setattr(clips_module, "generate_tokens", generate)


def test_a_clip_has_a_video_a_gif_its_tokens_and_what_it_is_and_all_clips_a_picture(run: Path, tmp_path: Path) -> None:
    sample(run, RED, BLUE, "--gif", "--out", tmp_path)
    clips = {f"{prompt.replace(' ', '_')}-0-0{suffix}" for prompt in (RED, BLUE) for suffix in FILES}
    (sheet,) = {path.name for path in tmp_path.iterdir()} - clips
    assert {path.name for path in tmp_path.iterdir()} == clips | {sheet}
    for prompt in (RED, BLUE):
        path = tmp_path / f"{prompt.replace(' ', '_')}-0-0.mp4"
        request = json.loads(path.with_suffix(".json").read_text())
        info = probe(path)
        assert (len(info.times), info.width, info.height) == (9, 128, 128)
        assert float(info.times.duration) == pytest.approx(request["seconds"], rel=1e-3)
        assert load_file(path.with_suffix(".safetensors"))["codes"].shape == (9, 16)
        assert Image.open(path.with_suffix(".gif")).size == (128, 128)
    picture = Image.open(tmp_path / sheet)
    assert sheet.startswith("sheet-")
    assert sheet.endswith(".png")
    assert picture.width > 8 * 128
    assert picture.height > 2 * 128


def test_prompts_come_from_arguments_a_file_and_stdin(run: Path, tmp_path: Path) -> None:
    lines = f"# colours\n\n  {RED}\n{BLUE}  \n"
    (tmp_path / "prompts.txt").write_text(lines)
    sample(run, RED, "--prompts", tmp_path / "prompts.txt", "--no-sheet", "--out", tmp_path / "file")
    assert requests(tmp_path / "file") == [(BLUE, 0), (RED, 0), (RED, 1)]
    sample(run, "--prompts", "-", "--no-sheet", "--out", tmp_path / "stdin", stdin=lines)
    assert requests(tmp_path / "stdin") == [(BLUE, 0), (RED, 0)]
    assert contents(tmp_path / "stdin").items() <= contents(tmp_path / "file").items()


def test_no_prompt_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("# nothing\n\n")
    refused(cogvid("sample", run), "No prompt", "--prompts")
    refused(cogvid("sample", run, "--prompts", tmp_path / "none.txt"), "No prompt", "none.txt")
    refused(cogvid("sample", run, "--prompts", tmp_path / "nowhere.txt"), "nowhere.txt", "cannot be read")
    (tmp_path / "latin.txt").write_bytes("gr\u00fcn".encode("latin-1"))
    refused(cogvid("sample", run, "--prompts", tmp_path / "latin.txt"), "latin.txt", "not UTF-8")


def test_a_clip_is_the_same_alone_and_among_others(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--out", tmp_path / "alone", "--no-sheet")
    sample(run, BLUE, RED, BLUE, "--count", "2", "--batch", "3", "--out", tmp_path / "among", "--no-sheet")
    assert requests(tmp_path / "among") == [*((BLUE, number) for number in range(4)), (RED, 0), (RED, 1)]
    assert contents(tmp_path / "alone").items() <= contents(tmp_path / "among").items()
    tokens = {path.read_bytes() for path in (tmp_path / "among").glob("*.safetensors")}
    assert len(tokens) == 6


def test_an_exported_run_says_what_it_is_and_makes_the_same_clips(run: Path, tmp_path: Path) -> None:
    assert cogvid("convert", "export", run, tmp_path / "shared").exit_code == 0
    assert not [path for path in (tmp_path / "shared").rglob("*") if path.is_symlink()]
    for folder in (run, tmp_path / "shared"):
        sample(folder, RED, "--no-sheet", "--out", tmp_path / f"from_{folder.name}")
    assert contents(tmp_path / "from_shared") == contents(tmp_path / f"from_{run.name}")
    card = (tmp_path / "shared" / "README.md").read_text()
    score = json.loads((run / "metrics.json").read_text())["sets"]["generated"]["oracle"]["values"]["present"]
    steps = json.loads((run / "stages" / "sequential" / "stage.json").read_text())
    assert f"| oracle | present | {score} |" in card
    assert f"{steps['parameters']:,} | {steps['trainable_parameters']:,} | 6 | 2 |" in card
    assert "Data: shapes (clips 24, test_clips 16," in card
    assert "None |" not in card


def test_an_export_of_what_is_no_release_or_not_trained_is_refused(run: Path, tmp_path: Path) -> None:
    refused(cogvid("convert", "export", run, tmp_path / "out", "--released"), "no SentencePiece model")
    shutil.copytree(run, tmp_path / "untrained")
    (tmp_path / "untrained" / "stages" / "interpolation" / "stage.json").unlink()
    refused(cogvid("convert", "export", tmp_path / "untrained", tmp_path / "out"), "has not trained interpolation yet")
    refused(cogvid("convert", "export", tmp_path, tmp_path / "out"), "is not the folder of a run")
    assert not (tmp_path / "out").exists()


def test_clips_with_the_same_words_get_names_of_their_own() -> None:
    long = "a red circle " * 20
    prompts = [RED, RED.replace("small ", "small, "), RED.replace(" ", "_"), RED.replace(" ", "-"), RED.upper()]
    prompts += [long + "left", long + "right", "\u5de6" * 200, "\u5de6" * 201, "???", "!!!", "../up", "up"]
    clips = [(prompt, seed, sample) for prompt in prompts for seed in (0, 1, -1) for sample in (0, 1, 10)]
    names = [Request(prompt, sample, seed, 9, 1.0, {}).name for prompt, seed, sample in clips]
    assert len({name.lower() for name in names}) == len(clips)
    assert names[0] == "a_small_red_circle_moves_left-0-0"
    assert max(len(f".{name}.safetensors.partial".encode()) for name in names) < 255
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)


def test_the_same_command_again_changes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [run, RED, BLUE, "--out", tmp_path]
    sample(*command)
    before = times(tmp_path)
    no_generation(monkeypatch)
    sample(*command)
    assert times(tmp_path) == before


def test_lost_videos_and_wanted_gifs_are_made_from_the_tokens(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(run, RED, "--gif", "--out", tmp_path)
    before = contents(tmp_path)
    for path in [*tmp_path.glob("*.mp4"), *tmp_path.glob("*.gif"), *tmp_path.glob("*.png")]:
        path.unlink()
    no_generation(monkeypatch)
    sample(run, RED, "--gif", "--out", tmp_path)
    assert contents(tmp_path) == before


def test_another_clip_of_the_same_name_is_refused_and_kept(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--frames", "9", "--out", tmp_path)
    before = contents(tmp_path)
    again = cogvid("sample", run, BLUE, RED, "--frames", "17", "--out", tmp_path)
    refused(again, "a_small_red_circle_moves_left-0-0.json holds another clip", "frames 9 there, 17 now", "--seed")
    assert contents(tmp_path) == before
    sample(run, RED, "--frames", "17", "--seed", "1", "--out", tmp_path)
    assert contents(tmp_path).items() > before.items()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".safetensors"])
def test_a_foreign_file_is_refused_and_kept(run: Path, tmp_path: Path, suffix: str) -> None:
    foreign = tmp_path / f"a_small_red_circle_moves_left-0-0{suffix}"
    foreign.write_bytes(b"mine")
    refused(cogvid("sample", run, BLUE, RED, "--out", tmp_path), foreign.name, "another clip", "--out")
    assert contents(tmp_path) == {foreign.name: b"mine"}


def test_a_clip_that_another_process_makes_is_left_to_it_on_request(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--out", tmp_path, "--no-sheet")
    (video,) = tmp_path.glob("*.mp4")
    video.unlink()
    with video.with_suffix(".json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(cogvid("sample", run, RED, "--out", tmp_path, "--no-sheet", "--no-wait"), "another cogvid process")
    sample(run, RED, "--out", tmp_path, "--no-sheet")
    assert video.exists()


def test_a_folder_that_cannot_be_made_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(cogvid("sample", run, RED, "--out", tmp_path / "file"), "--out", "cannot be made")


@pytest.mark.parametrize("duration", ["0.1", "-1", "nan", "inf"])
def test_a_duration_that_no_rate_fits_is_refused(run: Path, tmp_path: Path, duration: str) -> None:
    refused(cogvid("sample", run, RED, f"--duration={duration}", "--out", tmp_path), "--duration")
    assert not contents(tmp_path)


# Ends itself as kill -9 would, just before a file with this ending gets its name.
SUICIDE = """
import os, pathlib, signal, sys
ending, replace = sys.argv.pop(1), pathlib.Path.replace
def until(path, target):
    if str(target).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
pathlib.Path.replace = until
from cogvid.cli import main
main()
"""
MANY = [RED, BLUE, "--count", "2", "--batch", "2", "--gif"]


@pytest.fixture(scope="module")
def uninterrupted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted command writes."""
    out = tmp_path_factory.mktemp("uninterrupted")
    sample(run, *MANY, "--out", out)
    return contents(out)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_command_killed_again_and_again_ends_with_the_files_of_an_uninterrupted_one(
    run: Path, tmp_path: Path, uninterrupted: dict[str, bytes], fork: Callable[..., Any]
) -> None:
    kills = 0
    while True:
        before = times(tmp_path)
        named = len(names(tmp_path))
        process = fork("sample", run, *MANY, "--out", tmp_path)
        # At other moments each time: after one, two, three more files, right away or a little later.
        while process.poll() is None and len(names(tmp_path)) <= named + kills % 3:
            time.sleep(0.002)
        time.sleep(0.01 * (kills % 4))
        process.kill()
        process.wait(100)
        assert {name: before[name] for name in before if not name.startswith(".")}.items() <= times(tmp_path).items()
        now = contents(tmp_path)
        assert all(now[name] == uninterrupted[name] for name in names(tmp_path))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert contents(tmp_path) == uninterrupted


def names(folder: Path) -> set[str]:
    """Of the files that are complete."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("ending", [".json", ".safetensors", ".mp4", ".gif", ".png"])
def test_a_command_killed_before_a_file_gets_its_name_leaves_none_of_it_and_goes_on(
    run: Path, tmp_path: Path, uninterrupted: dict[str, bytes], fork: Callable[..., Any], ending: str
) -> None:
    killed = fork(ending, "sample", run, *MANY, "--out", tmp_path, code=SUICIDE)
    assert killed.wait(100) == -signal.SIGKILL, killed.communicate()
    assert not list(tmp_path.glob(f"*{ending}"))
    now = contents(tmp_path)
    assert all(now[name] == uninterrupted[name] for name in names(tmp_path))
    sample(run, *MANY, "--out", tmp_path)
    assert contents(tmp_path) == uninterrupted


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


def changed(run: Path, folder: Path, old: str, new: str) -> Path:
    """The run with another configuration, in a folder of its own."""
    folder.mkdir()
    config = (run / "config.yaml").read_text()
    assert old in config
    (folder / "config.yaml").write_text(config.replace(old, new))
    (folder / "stages").symlink_to(run / "stages")
    return folder


@pytest.mark.parametrize("strategy", ["hold", "linear"])
def test_strategies_without_a_model_fill_the_clip(run: Path, tmp_path: Path, strategy: str) -> None:
    filled = changed(run, tmp_path / "run", "name: recursive", f"name: {strategy}")
    sample(filled, RED, "--frames", "12", "--out", tmp_path / "out", "--gif")
    (video,) = (tmp_path / "out").glob("*.mp4")
    assert len(probe(video).times) == 12
    assert load_file(video.with_suffix(".safetensors"))["codes"].shape == (5, 16)


def test_models_generate_in_the_type_that_the_configuration_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, types = changed(run, tmp_path / "run", "dtype: float32", "dtype: bfloat16"), set()
    generate = clips_module.generate_tokens

    def spy(model: CogVideoTransformer, *rest: object, **more: object) -> Tensor:
        types.update(parameter.dtype for parameter in model.parameters())
        return generate(model, *rest, **more)

    monkeypatch.setattr(clips_module, "generate_tokens", spy)
    sample(half, RED, "--out", tmp_path / "out")
    assert types == {torch.bfloat16}


def test_a_clip_of_other_settings_is_refused_by_what_differs(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--out", tmp_path / "out")
    cooler = changed(run, tmp_path / "run", "temperature: 1.0", "temperature: 0.5")
    refused(cogvid("sample", cooler, RED, "--out", tmp_path / "out"), "holds another clip (generation);")


def test_clips_are_the_same_with_every_exact_decoding(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    sample(run, RED, "--out", out, "--decoding", "sequential")
    ((request, made),) = ((json.loads(path.read_text()), contents(out)) for path in out.glob("*.json"))
    assert "decoding" not in request["settings"]["generation"]
    sample(run, RED, "--out", tmp_path / "again")
    assert contents(tmp_path / "again") == made
    before = times(out)
    no_generation(monkeypatch)
    for more in ([], ["--decoding", "scheduled"], ["generation.decoding.options.window=3"]):
        sample(run, RED, *more, "--out", out)
    assert times(out) == before


def test_clips_of_an_approximate_decoding_are_others(run: Path, tmp_path: Path, hasty: Path) -> None:
    plugged = changed(run, tmp_path / "run", "plugins: []", f"plugins: [{hasty}]")
    sample(plugged, RED, "--out", tmp_path / "exact")
    refused(cogvid("sample", plugged, RED, "--decoding", "hasty", "--out", tmp_path / "exact"), "(generation);")
    sample(plugged, RED, "--decoding", "hasty", "--out", tmp_path / "hasty")
    (path,) = (tmp_path / "hasty").glob("*.json")
    assert json.loads(path.read_text())["settings"]["generation"]["decoding"]["name"] == "hasty"
    more = ["--decoding", "hasty", "generation.decoding.options.rows=2"]
    refused(cogvid("sample", plugged, RED, *more, "--out", tmp_path / "hasty"), "(generation);")


def test_decodings_are_measured_on_the_clips_of_a_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    said = ["--clips", "2", "--batch", "1,2", "--repeats", "1", "--out", out]
    result = cogvid("bench", "decode", "--run", run, *said)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    parts = {(part["part"], part["decoding"], part["batch"]): part for part in record["parts"]}
    names = dict.fromkeys(part["part"] for part in record["parts"])
    assert list(names) == ["first frame", "key frames", "round 1"]
    assert len(parts) == 3 * 3 * 2
    for (part, decoding, _), found in parts.items():
        slots = 16 * {"first frame": 1, "key frames": 4, "round 1": 2}[part]
        if decoding == "sequential":
            assert found["passes_mean"] == found["passes_most"] == slots
        assert found["equal_tokens"] == 1 or found["distances_from_ties"]
        assert max(found["distances_from_ties"], default=0) <= 1e-4
        assert found["passes_mean"] <= slots <= slots * found["computed_for_each_kept"]
        if decoding != "fixed_point":
            assert set(found["acceptance_by_frame"] + found["acceptance_by_place"]) == {1}
    for whole in record["whole_clips"]:
        own = [found for key, found in parts.items() if key[1:] == (whole["decoding"], whole["batch"])]
        assert whole["passes_mean"] == pytest.approx(sum(found["passes_mean"] for found in own))
        assert whole["seconds"] == pytest.approx(sum(found["seconds"] for found in own))
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert [record["arguments"][name] for name in ("device", "dtype", "compile")] == ["cpu", "float32", False]


def test_in_half_precision_the_equal_tokens_of_a_run_are_counted_alone(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    said = ["--clips", "1", "--batch", "1", "--repeats", "1", "--decoding", "scheduled", "--dtype", "bfloat16"]
    result = cogvid("bench", "decode", "--run", run, *said, "--out", out)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    assert record["arguments"]["dtype"] == "bfloat16"
    assert all(part["distances_from_ties"] is None for part in record["parts"])
    assert all(0 < whole["equal_tokens"] <= 1 for whole in record["whole_clips"])


def test_a_run_is_not_measured_with_what_is_no_number_or_not_there(run: Path, tmp_path: Path) -> None:
    measure = ["bench", "decode", "--out", tmp_path / "out.json", "--run"]
    refused(cogvid(*measure, run, "--batch", "1,x"), "--batch 1,x", "whole number")
    refused(cogvid(*measure, run, "--size", "tiny"), "--run brings")
    refused(cogvid(*measure, run, "--dtype", "float16"), "--dtype float16", "float32 or bfloat16")
    if not torch.cuda.is_available():
        refused(cogvid(*measure, run, "--device", "cuda"), "--device cuda")
    refused(cogvid(*measure, tmp_path), "is not the folder of a run")
    refused(cogvid(*measure, run, "--decoding", "fixpoint"), "Did you mean 'fixed_point'")


def test_a_decoding_that_nobody_has_is_refused_before_anything_is_made(run: Path, tmp_path: Path) -> None:
    said = cogvid("sample", run, RED, "--decoding", "fixpoint", "--out", tmp_path / "out")
    refused(said, "generation.decoding", "Did you mean 'fixed_point'")
    said = cogvid("sample", run, RED, "generation.decoding.options.widow=4", "--out", tmp_path / "out")
    refused(said, "generation.decoding.options", "window")
    assert not (tmp_path / "out").exists()


def test_two_level_sampling_takes_the_clusters_of_the_tokenizer(run: Path, tmp_path: Path) -> None:
    clustered = changed(run, tmp_path / "run", "clusters: false", "clusters: true")
    sample(clustered, RED, "--out", tmp_path / "out")
    (tokens,) = (tmp_path / "out").glob("*.safetensors")
    assert len(load_file(tokens)["codes"].unique()) > 1


def test_two_level_sampling_of_a_run_without_clusters_names_the_key(run: Path, tmp_path: Path) -> None:
    clustered = changed(run, tmp_path / "run", "clusters: false", "clusters: true")
    (clustered / "stages").unlink()
    shutil.copytree(run / "stages", clustered / "stages")
    tokenizer = clustered / "stages" / "tokenizer"
    (tokenizer / "clusters.safetensors").unlink()
    said = json.loads((tokenizer / "stage.json").read_text())
    del said["outputs"]["clusters.safetensors"]  # as of a tokenizer that has no codebook
    (tokenizer / "stage.json").write_text(json.dumps(said))
    refused(cogvid("sample", clustered, RED, "--out", tmp_path / "out"), "generation.first_frame.clusters")
    assert not (tmp_path / "out").exists()


def test_the_passes_of_a_clip_of_the_run_are_printed_and_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, made = clips_module.generate_tokens, []

    def spy(*rest: object, **more: object) -> Tensor:
        made.append(generate(*rest, **more))
        return made[-1]

    monkeypatch.setattr(clips_module, "generate_tokens", spy)
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "it.gif"
    drawn = {}
    for name in ("scheduled", "fixed_point"):
        result = cogvid("inspect", "schedule", run, "--clip", "2", "--decoding", name, "--out", out)
        assert result.exit_code == 0, result.output
        assert f"{name} on 9x4x4" in result.output
        with Image.open(out) as animation:
            drawn[name] = animation.n_frames
        (said,) = re.findall(r"([\d,]+) passes where the shortest schedule has ([\d,]+) steps", result.output)
        assert int(said[0]) == drawn[name]
        assert int(said[1]) == drawn["scheduled"]
        rows = dict(re.findall(r"│ +(\S.*?) +│ +(\S.*?) +│ +(?:\d+ steps)? +│", result.output))
        assert list(rows) == ["first frame", "key frames", "round 1", "the clip", *(f"frame {t}" for t in range(9))]
        assert sum(int(rows[part]) for part in ("first frame", "key frames", "round 1")) == int(rows["the clip"])
    clips = load_file(run / "samples" / "tokens.safetensors")["key_frames"]
    for _, keys, _ in (made[:3], made[3:]):
        assert torch.equal(keys[0].int(), clips[2]), "the very clip of the run"


def test_passes_of_what_is_no_clip_of_a_run_are_refused_before_a_model_is_loaded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_clip, "trained_models", lambda *_: pytest.fail("models were loaded"))
    show = ["inspect", "schedule", run]
    out = ["--out", tmp_path / "it.gif"]
    refused(cogvid(*show, *out, "--clip", "99"), "--clip 99", "test clips 0 to ")
    refused(cogvid("inspect", "schedule", tmp_path, *out, "--clip", "0"), "is not the folder of a run")
    refused(cogvid("inspect", "schedule", "attention=naive", *out, "--clip", "0"), "is not the folder of a run")
    refused(cogvid("inspect", "schedule", "attention=naive", "--decoding", "scheduled"), "--decoding", "--clip")
    refused(cogvid(*show, *out, "--clip", "0", "--grid", "5x4x4"), "leave out --grid")
    refused(cogvid(*show, *out, "--clip", "0", "model.layers=3"), "model.layers=3", "generation.KEY=VALUE")
    refused(cogvid(*show, *out, "--clip", "0", "--decoding", "fixpoint"), "Did you mean 'fixed_point'")
    refused(cogvid(*show, "--clip", "0", "--out", tmp_path / "it.png"), "it.png", "ends in .gif")
    refused(cogvid(*show, "--clip", "0", "--out", tmp_path / "no" / "it.gif"), "Cannot write the picture")
    shutil.copytree(run, tmp_path / "untrained")
    (tmp_path / "untrained" / "stages" / "sequential" / "stage.json").unlink()
    refused(cogvid("inspect", "schedule", tmp_path / "untrained", *out, "--clip", "0"), "has not trained sequential")
    (tmp_path / "untrained" / "stages" / "data" / "stage.json").unlink()
    refused(cogvid("inspect", "schedule", tmp_path / "untrained", *out, "--clip", "0"), "no test clips", "export")
    assert not list(tmp_path.glob("it.*"))
