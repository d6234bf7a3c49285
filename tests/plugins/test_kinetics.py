from __future__ import annotations

import csv
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cogvid import Clip, UserError
from cogvid.data.files import VideoFile
from cogvid.data.reading import probe
from cogvid_plugins.data.kinetics import Kinetics

IDS = ["-3B32lodo2M", "_dbcJuKJQNs", "0347ZoDXyP0", "zz-9_yV6LvM"]
LABELS = ["abseiling", "massaging person's head"]


def make_files(home: Path, names: list[str], real: Path | None = None) -> Path:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real, home / name) if real else (home / name).touch()
    return home


def cut(video: str, start: int) -> str:
    return f"{video}_{start:06d}_{start + 10:06d}.mp4"


HEADER = "label,youtube_id,time_start,time_end,split"


def write_csv(path: Path, rows: list[tuple[Any, ...]], header: str = HEADER) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return str(path)


def list_clips(home: Path, **options: Any) -> list[Clip]:
    source = Kinetics(Kinetics.Config(path=str(home), **options))
    return list(source.clips(home / "own", 0, lambda done, total: None))


def class_folders(home: Path, real: Path | None = None) -> Path:
    labels = ["abseiling", "playing_guitar"]
    parts = {"train": 2, "val": 1, "test": 1}
    names = [
        f"{part}/{label}/{cut(video, 5)}" for part, count in parts.items() for label in labels for video in IDS[:count]
    ]
    return make_files(home, names, real)


def test_class_folders_of_real_clips_have_their_classes_clips_and_splits(
    tmp_path: Path, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = class_folders(tmp_path / "k", clips / "part_0.mp4")
    with caplog.at_level(logging.INFO, logger="cogvid"):
        found = list_clips(home)
    assert Counter((clip.caption, clip.split) for clip in found) == {
        (label, split): count
        for label in ("abseiling", "playing guitar")
        for split, count in (("train", 2), ("test", 1))
    }
    assert {clip.id.split("/")[0] for clip in found if clip.split == "test"} == {"val"}
    assert all(clip.span is None for clip in found)
    assert len(probe(VideoFile.of(found[0])).times) == 32
    left, counts = caplog.messages
    assert "of the part test, and models are tested on val: 2 of the clips (test/abseiling/" in left
    assert counts.endswith("2 classes, 4 clips for training, 2 for testing")


def test_the_other_part_is_tested_by_its_option(tmp_path: Path) -> None:
    home = class_folders(tmp_path)
    (home / "val").rename(home / "validate")
    found = list_clips(home, test="test", caption="someone is {label}")
    assert {clip.id.split("/")[0] for clip in found} == {"train", "test"}
    assert found[-1].caption == "someone is playing guitar"


def test_clips_that_are_cut_are_found_by_the_official_files(tmp_path: Path, clips: Path) -> None:
    names = [f"train/{cut(IDS[0], 7)}", f"deep/er/{cut(IDS[1], 0)}", f"val/x/{cut(IDS[2], 120)}"]
    home = make_files(tmp_path / "k", names, clips / "part_0.mp4")
    train = write_csv(
        tmp_path / "train.csv", [(LABELS[0], IDS[0], 7, 17, "train"), (LABELS[1], IDS[1], 0, 10, "train")]
    )
    old = write_csv(tmp_path / "val.csv", [(LABELS[1], IDS[2], 120, 130, "val", 0)], f"{HEADER},is_cc")
    assert list_clips(home, annotations=[train, old]) == [
        Clip(f"{IDS[0]}_000007_000017", home / names[0], LABELS[0], "train"),
        Clip(f"{IDS[1]}_000000_000010", home / names[1], LABELS[1], "train"),
        Clip(f"{IDS[2]}_000120_000130", home / names[2], LABELS[1], "test"),
    ]


def test_whole_videos_are_cut_by_the_official_files(
    tmp_path: Path, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = make_files(tmp_path / "k", [f"{video}.mp4" for video in IDS], clips / "short.mp4")
    rows = [
        ("abseiling", IDS[0], 0, 0.5, "train"),
        ("abseiling", IDS[0], 1, 2, "train"),
        ("yoga", IDS[1], 3, 13, "validate"),
        ("yoga", IDS[1], 20, 30, "train"),
        ("yoga", IDS[2], 3, 13, "test"),
        ("yoga", "not-there", 3, 13, "train"),
        ("abseiling", IDS[0], 1, 2, "train"),
    ]
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        found = list_clips(home, annotations=[write_csv(tmp_path / "all.csv", rows)])
    assert found == [
        Clip(f"{IDS[0]}_000000_000000", home / f"{IDS[0]}.mp4", "abseiling", "train", span=(0, 0.5)),
        Clip(f"{IDS[0]}_000001_000002", home / f"{IDS[0]}.mp4", "abseiling", "train", span=(1, 2)),
        Clip(f"{IDS[1]}_000003_000013", home / f"{IDS[1]}.mp4", "yoga", "test", span=(3, 13)),
    ]
    other, gone, mixed, again, unlisted = caplog.messages
    assert f"part test, and models are tested on val: 1 of the clips ({IDS[2]}_000003_000013)" in other
    assert "1 of the clips (not-there_000003_000013)" in gone
    assert f"the test split has a clip of the same video: 1 of the training clips ({IDS[1]}_000020_000030)" in mixed
    assert f"listed twice: 1 of the clips ({IDS[0]}_000001_000002)" in again
    assert f"no CSV file names them: 1 of the videos ({IDS[3]}.mp4)" in unlisted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("yoga", "", 0, 10, "train"), r"all\.csv:2: the column youtube_id is missing or empty.*time_start"),
        (("yoga", "a", 0, 10, "training"), r"all\.csv:2: the split is train, val, validate, .*not 'training'"),
        (("yoga", "a", 10, 0, "train"), r"all\.csv:2: time_start and time_end are seconds.*'10' and '0'"),
        (("yoga", "a", "0:10", "0:20", "train"), r"all\.csv:2: time_start and time_end are seconds"),
        (("", "a", 0, 10, "train"), r"all\.csv:2: the label is missing, which official files for testing keep back"),
        (("yoga", "a", 0, 10, "train", 1), r"all\.csv:2: the line has 6 columns, the header 5"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: tuple[Any, ...], message: str) -> None:
    home = make_files(tmp_path / "k", ["a.mp4"])
    with pytest.raises(UserError, match=message):
        list_clips(home, annotations=[write_csv(tmp_path / "all.csv", [row])])


def test_a_file_without_labels_may_list_clips_that_are_left_out(tmp_path: Path) -> None:
    home = make_files(tmp_path / "k", [cut(IDS[0], 0), cut(IDS[1], 0)])
    train = write_csv(tmp_path / "train.csv", [("yoga", IDS[0], 0, 10, "train")])
    test = write_csv(tmp_path / "test.csv", [(IDS[1], 0, 10, "test")], "youtube_id,time_start,time_end,split")
    assert len(list_clips(home, annotations=[train, test])) == 1
    with pytest.raises(UserError, match=r"test\.csv:2: the label is missing"):
        list_clips(home, annotations=[train, test], test="test")


@pytest.mark.parametrize(
    "names", [[cut(IDS[0], 0)], [f"train/{cut(IDS[0], 0)}"], ["frames/1.jpg"], [f"val/yoga/{IDS[0]}.mp4"]]
)
def test_another_tree_is_answered_with_what_is_there_and_what_is_expected(tmp_path: Path, names: list[str]) -> None:
    make_files(tmp_path, names)
    first = names[0].split("/")[0]
    with pytest.raises(
        UserError, match=rf"no clips of Kinetics to train on.*train/abseiling/.*option annotations.*\({first}\)"
    ):
        list_clips(tmp_path)


def test_other_videos_than_the_official_files_name_are_answered_with_the_names_to_expect(tmp_path: Path) -> None:
    home = make_files(tmp_path / "k", ["yoga/holiday.mp4"])
    files = [write_csv(tmp_path / "train.csv", [("yoga", IDS[0], 3, 13, "train")])]
    with pytest.raises(
        UserError, match=rf"Expected is {IDS[0]}_000003_000013\.mp4, or {IDS[0]}\.mp4 .*1 videos \(yoga/holiday\.mp4\)"
    ):
        list_clips(home, annotations=files)


def test_a_missing_official_file_is_named(tmp_path: Path) -> None:
    make_files(tmp_path, ["a.mp4"])
    with pytest.raises(UserError, match=r"gone\.csv does not exist.*annotations"):
        list_clips(tmp_path, annotations=[str(tmp_path / "gone.csv")])


def test_the_fingerprint_covers_the_official_files_and_the_videos(tmp_path: Path) -> None:
    home = make_files(tmp_path / "k", [cut(IDS[0], 0)])
    path = tmp_path / "train.csv"
    source = Kinetics(
        Kinetics.Config(path=str(home), annotations=[write_csv(path, [("yoga", IDS[0], 0, 10, "train")])])
    )
    seen = {source.fingerprint()}
    path.write_text(path.read_text().replace("yoga", "golf"))
    seen.add(source.fingerprint())
    (home / cut(IDS[0], 0)).write_text("new")
    seen.add(source.fingerprint())
    make_files(home, [cut(IDS[1], 0)])
    seen.add(source.fingerprint())
    assert len(seen) == 4
