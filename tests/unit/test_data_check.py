"""`cogvid data check`: every clip looked at, problems by kind, a table of all; nothing else is touched."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cogvid import UserError
from cogvid.cli import app
from cogvid.config.compose import load_experiment
from cogvid.data.video import write_video
from cogvid.inspect.data_check import check_experiment, check_path
from cogvid.inspect.data_report import DataReport, Finding, kind_of

EXPERIMENT = """
base: [model/small, attention/local3d, data/folder, interpolation/hold, trainer/cpu]
data: {name: folder, options: {path: videos, test_share: 0}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
video: {size: 16, frames: 5}
stages:
  tokenizer: {steps: 1, batch_size: 1}
  image_base: {steps: 1, batch_size: 1}
  sequential: {steps: 1, batch_size: 1}
  interpolation: {steps: 1, batch_size: 1}
generation: {frames: 9, samples: 1}
frame_rate: {name: fixed, options: {rate: 4}}
"""

Run = Callable[..., tuple[int, str]]


def make_video(path: Path, frames: int = 10, fps: float = 8, seed: int = 0) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (1, 16, 24, 3), dtype=np.uint8)
    write_video(path, np.repeat(pixels, frames, axis=0), fps)


def make_captions(folder: Path, **splits: str) -> None:
    """Captions of the videos of these names, without `.mp4`."""
    rows = [{"file": f"{name}.mp4", "caption": "a cat", "split": split} for name, split in splits.items()]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `cogvid data check` in an empty folder: exit code and output on one long line a row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["data", "check", *words])
        return result.exit_code, result.output

    return run


def table(path: str = "clips.csv") -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def test_problems_are_grouped_by_kind_with_an_example(run: Run, cases: Path) -> None:
    make_video(Path("videos/good.mp4"))
    for name in ("first", "second"):
        shutil.copy(cases / "cut_tail.mp4", f"videos/{name}.mp4")
        Path(f"videos/{name}.mkv").write_text("no video")
    os.symlink("nowhere", "videos/gone.mp4")
    videos = Path("videos").absolute()
    report = DataReport(check_path(Path("videos")))
    assert report.left_out() == [
        Finding("Invalid data found when processing input", 2, f"{videos}/first.mkv"),
        Finding("cannot be decoded to its end: Invalid data found when processing input", 2, f"{videos}/first.mp4"),
        Finding("No such file or directory", 1, f"{videos}/gone.mp4"),
    ]
    code, output = run("videos")
    assert code == 0
    assert "1 of 6 clips can be used. All of them: clips.csv" in output
    assert any("to its end" in line and " 2 " in line and "videos/first.mp4" in line for line in output.splitlines())


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("The video a b.mp4 cannot be read: its frame 17 is damaged. Replace it.", "its frame N is damaged"),
        ("The video a b.mp4 cannot be read: broken (after 3 frames). Go.", "cannot be decoded to its end: broken"),
        ("The video a b.mp4 has no frame from second 2.5 to 1e+03.", "has no frame from second N to N"),
        ("The shard a b.mp4 cannot be read: it is no tar. Go.", "it is no tar"),
    ],
)
def test_a_kind_has_neither_name_nor_number_nor_advice(problem: str, kind: str) -> None:
    assert kind_of(problem, "a b.mp4") == kind


def test_names_of_any_characters_survive(run: Run) -> None:
    odd = ["[red]a[bold].mp4", "[b.mp4", "back\\slash]\\[.mp4", "line\nbreak.mp4", "\x1b[31mcolour.mp4", "kød 猫.mp4"]
    Path("videos").mkdir()
    for name in odd:
        Path("videos", name).write_text("no video")
    Path(os.fsdecode(b"videos/latin-\xe9.mp4")).write_text("no video")
    code, output = run("videos")
    assert code == 1
    assert "0 of 7 clips" in output
    assert "\x1b" not in output
    assert table().keys() == {*odd, r"videos/latin-\udce9.mp4"}
    assert r"latin-\udce9.mp4 has a name that is no UTF-8 text" in table()[r"videos/latin-\udce9.mp4"]["problem"]
    for number, name in enumerate(odd):
        code, output = run(f"videos/{name}")
        assert code == 1
        shown = name.encode("unicode_escape").decode() if number in (3, 4) else name
        assert f"│ videos/{shown}" in output


def test_a_folder_with_nothing_usable_exits_with_1_and_says_so(run: Run) -> None:
    make_video(Path("good/one.mp4"))
    Path("empty").mkdir()
    for target, usable, code in (("empty", "0 of 0", 1), ("good", "1 of 1", 0), ("good/one.mp4", "1 of 1", 0)):
        found, output = run(target)
        assert (found, usable in output) == (code, True), output
        assert ("there is no clip to train on" in output) == bool(code)


def test_what_is_neither_path_nor_experiment_is_named(run: Run) -> None:
    for words in (["nowhere"], ["nowhere", "video.size=8"], ["quickstart", "video.sise=8"]):
        code, output = run(*words)
        assert code == 1
        assert words[-1].partition("=")[0] in output or words[0] in output
    assert not list(Path().iterdir())


def test_totals_say_what_there_is(run: Run) -> None:
    make_video(Path("videos/a.mp4"), frames=20, fps=10)
    make_video(Path("videos/sub/b.mp4"), frames=20, fps=10, seed=1)
    make_video(Path("videos/.hidden/c.mp4"))
    make_video(Path("videos/one.mp4"), frames=1, seed=2)
    Path("videos/notes.txt").write_text("x")
    report = DataReport(check_path(Path("videos")))
    size = sum(path.stat().st_size for path in map(Path, ["videos/a.mp4", "videos/sub/b.mp4", "videos/one.mp4"]))
    assert dict(report.totals()) == {
        "clips": "3",
        "can be used": "3",
        "frames": "41",
        "duration": "4.0 seconds",
        "files": f"{size / 1e3:.1f} kB",
        "width x height": "24x16 (3)",
        "codecs": "h264 (3)",
        "frames a second": "10 (2), single frames (1)",
    }
    assert report.remarks() == [Finding("a single frame", 1, str(Path("videos/one.mp4").absolute()))]
    assert "no videos by their names: .txt (1)" in run("videos")[1]


def test_videos_in_tar_shards_are_read_where_they_lie(run: Run, cases: Path) -> None:
    make_video(Path("videos/a.mp4"))
    with tarfile.open("videos/shard.tar", "w") as shard:
        shard.add("videos/a.mp4", "one.mp4")
        shard.add(cases / "cut_tail.mp4", "two.mp4")
        shard.addfile(tarfile.TarInfo("two.json"))
    code, output = run("videos/shard.tar")
    assert code == 0
    assert "1 of 2 clips" in output
    assert "two.mp4 in videos/shard.tar" in output
    assert ".json (1)" in output
    rows = table()
    assert rows["shard.tar/one.mp4"]["member"] == "one.mp4"
    code, output = run("videos")
    assert "2 of 3 clips" in output
    assert table("clips-2.csv")["a.mp4"]["sha256"] == rows["shard.tar/one.mp4"]["sha256"]
    assert "the same bytes as another video" in output


def test_a_damaged_or_packed_shard_is_a_problem_and_the_others_are_read(run: Run) -> None:
    make_video(Path("videos/a.mp4"))
    with tarfile.open("videos/good.tar", "w") as shard:
        shard.add("videos/a.mp4", "one.mp4")
    Path("videos/cut.tar").write_bytes(Path("videos/good.tar").read_bytes()[:700])
    with tarfile.open("videos/packed.tar.gz", "w:gz") as shard:
        shard.add("videos/a.mp4", "one.mp4")
    code, output = run("videos")
    assert code == 0
    assert "videos/cut.tar" in output
    rows = table()
    assert [name for name, row in rows.items() if row["used"] == "true"] == ["a.mp4", "good.tar/one.mp4"]
    assert "uncompressed tar" in rows["videos/packed.tar.gz"]["problem"]


def test_nothing_is_written_but_the_table_and_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    make_video(Path("videos/a.mp4"))
    make_captions(Path("videos"), a="train")
    Path("mine.yaml").write_text(EXPERIMENT)
    Path("kept.csv").write_text("mine")
    before = snapshot(tmp_path)
    assert run("videos")[0] == run("mine.yaml")[0] == run("videos", "--out", "all.arrow")[0] == 0
    for out, said in (
        ("kept.csv", "there is such a file"),
        ("all.txt", "ends in .csv or .arrow"),
        ("none/all.csv", "no folder none"),
    ):
        code, output = run("videos", "--out", out)
        assert code == 1
        assert said in output
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {Path(name).name for name in after.keys() - before.keys()} == {"clips.csv", "clips-2.csv", "all.arrow"}


def test_the_table_does_not_come_to_lie_among_the_videos_by_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video(Path("videos/a.mp4"))
    monkeypatch.chdir("videos")
    code, output = run(".")
    assert code == 1
    assert "name a file with --out" in output
    assert [path.name for path in Path().iterdir()] == ["a.mp4"]
    assert run(".", "--out", "../all.csv")[0] == 0


def test_the_table_is_the_same_as_csv_and_as_arrow(run: Run) -> None:
    make_video(Path("videos/a.mp4"))
    make_video(Path("videos/short.mp4"), frames=3, seed=1)
    Path("videos/broken.mp4").write_text("no video")
    make_captions(Path("videos"), a="train", short="train", broken="train")
    Path("mine.yaml").write_text(EXPERIMENT)
    run("mine.yaml")
    run("mine.yaml", "--out", "all.arrow")
    rows = pa.ipc.open_file(pa.memory_map("all.arrow")).read_all().to_pylist()
    assert [(row["id"], row["used"], row["rates"]) for row in rows] == [
        ("a.mp4", True, [4.0]),
        ("short.mp4", False, []),
        ("broken.mp4", False, None),
    ]
    assert (rows[0]["frames"], rows[0]["frame_rate"], rows[0]["captions"]) == (10, 8.0, ["a cat"])
    for row in rows:
        said = table()[row["id"]]
        assert said.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, bool | list):
                assert json.loads(said[name]) == value
            else:
                assert said[name] == ("" if value is None else str(value))


def test_of_an_experiment_it_is_said_what_training_makes_of_the_clips(run: Run) -> None:
    make_video(Path("videos/good.mp4"), frames=20, fps=8)
    make_video(Path("videos/slow.mp4"), frames=10, fps=2, seed=1)
    make_video(Path("videos/short.mp4"), frames=6, fps=8, seed=2)
    make_video(Path("videos/silent.mp4"), seed=3)
    make_captions(Path("videos"), good="train", slow="train", short="train", missing="train")
    Path("mine.yaml").write_text(EXPERIMENT)
    checked = check_experiment(load_experiment("mine.yaml"))
    report = DataReport(checked)
    videos = Path("videos").absolute()
    assert report.left_out() == [Finding("too short for every rate of frame_rate fixed", 1, f"{videos}/short.mp4")]
    (remark,) = report.remarks()
    assert remark.kind.startswith("fewer frames a second than frame_rate fixed asks for")
    assert (remark.clips, remark.example) == (1, f"{videos}/slow.mp4")
    assert [("no such video" in said, "no caption" in said) for said in checked.said] == [(True, False), (False, True)]
    assert ["generation.samples: 1 clips are wanted" in stop for stop in checked.stops] == [True]
    code, output = run("mine.yaml")
    assert code == 0
    for words in ("2 of 3 clips", "missing.mp4", "silent.mp4", "A run would stop: ", "videos/short.mp4"):
        assert words in output
    code, output = run("mine.yaml", "frame_rate.options.rate=1")
    assert "1 of 3 clips" in output  # the slow one lasts long enough


def test_an_experiment_with_nothing_to_train_on_exits_with_1(run: Run) -> None:
    make_video(Path("videos/good.mp4"), frames=20, fps=8)
    Path("videos/broken.mp4").write_text("no video")
    make_captions(Path("videos"), broken="train", good="test")
    Path("mine.yaml").write_text(EXPERIMENT)
    code, output = run("mine.yaml")
    assert code == 1
    assert "1 of 2 clips" in output
    assert "mine.yaml: there is no clip to train on" in output


def test_the_same_video_under_two_names_in_both_splits_is_said(run: Run) -> None:
    make_video(Path("videos/one.mp4"))
    shutil.copy("videos/one.mp4", "videos/other.mp4")
    make_captions(Path("videos"), one="train", other="test")
    Path("mine.yaml").write_text(EXPERIMENT)
    kinds = {
        finding.kind: finding.clips for finding in DataReport(check_experiment(load_experiment("mine.yaml"))).remarks()
    }
    assert kinds == {
        "the same bytes as another video": 2,
        "in both splits: a video of the same bytes is in the other one": 2,
    }


def test_a_source_that_makes_its_clips_makes_them_elsewhere(run: Run) -> None:
    code, output = run("quickstart", "data={name: shapes, options: {clips: 3, test_clips: 2}}", "generation.samples=2")
    assert code == 0
    assert "5 of 5 clips can be used" in output
    assert "A run would stop" not in output
    assert [path.name for path in Path().iterdir()] == ["clips.csv"]


def test_real_clips_are_read(clips: Path) -> None:
    report = DataReport(check_path(clips))
    assert report.trains
    assert report.usable.all()
    assert report.left_out() == report.remarks() == []
    assert dict(report.totals())["clips"] == str(len([*clips.glob("*.m*[4v]")]))


def test_a_clip_that_the_table_cannot_name_ends_a_run_with_a_clear_message(tmp_path: Path) -> None:
    from cogvid import Clip
    from cogvid.data.table import listed_row

    with pytest.raises(UserError, match=r"latin-.udce9\.mp4 has a name that is no UTF-8 text"):
        listed_row(Clip("a", tmp_path / os.fsdecode(b"latin-\xe9.mp4"), "", "train"), tmp_path)
