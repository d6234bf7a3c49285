"""`cogvid sample`: which clips it makes of a run or of its export, what they are called, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from cogvid.data.reading import probe
from cogvid.pipeline.clip_files import Request
from helpers import cogvid, contents, refused, sample

RED, BLUE = "a small red circle moves left", "a large blue square stands still"
FILES = (".gif", ".json", ".mp4", ".safetensors")


def requests(folder: Path) -> list[tuple[str, int]]:
    """Prompt and sample of all clips in a folder, sorted."""
    said = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted((request["prompt"], request["sample"]) for request in said)


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


def test_a_folder_that_cannot_be_made_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(cogvid("sample", run, RED, "--out", tmp_path / "file"), "--out", "cannot be made")


@pytest.mark.parametrize("duration", ["0.1", "-1", "nan", "inf"])
def test_a_duration_that_no_rate_fits_is_refused(run: Path, tmp_path: Path, duration: str) -> None:
    refused(cogvid("sample", run, RED, f"--duration={duration}", "--out", tmp_path), "--duration")
    assert not contents(tmp_path)


def names(folder: Path) -> set[str]:
    """Of the files that are complete."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}
