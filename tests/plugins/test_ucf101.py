from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cogvid import Clip, UserError
from cogvid.data.files import VideoFile
from cogvid.data.reading import probe
from cogvid_plugins.data.ucf101 import Ucf101

CLASSES = ["ApplyEyeMakeup", "HandstandPushups", "YoYo"]


def make_tree(root: Path, real: Path | None = None) -> Path:
    """Three classes of five groups of two clips; a list of fold 1 trains on groups 3 to 5, one of fold 2 on 1 to 3."""
    tree, lists = root / "UCF-101", root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\r\n" for n, name in enumerate(CLASSES, start=1)))
    names = {
        group: [f"{label}/v_{label}_g{group:02d}_c{clip:02d}.avi" for label in CLASSES for clip in (1, 2)]
        for group in range(1, 6)
    }
    for fold, trained in {1: (3, 4, 5), 2: (1, 2, 3)}.items():
        for split in ("train", "test"):
            own = [name for g in names if (g in trained) == (split == "train") for name in names[g]]
            lines = [f"{name} {CLASSES.index(name.split('/')[0]) + 1}" if split == "train" else name for name in own]
            (lists / f"{split}list0{fold}.txt").write_text("".join(line + "\r\n" for line in lines))
    for name in [name for own in names.values() for name in own]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if real is None:
            (tree / name).touch()
        else:
            shutil.copy(real, tree / name)
    return tree


def list_clips(tree: Path, **options: Any) -> list[Clip]:
    source = Ucf101(Ucf101.Config(path=str(tree), **options))
    return list(source.clips(tree / "own", 0, lambda done, total: None))


def test_a_tree_of_real_clips_has_its_classes_clips_and_splits(tmp_path: Path, clips: Path) -> None:
    tree = make_tree(tmp_path, clips / "short.mp4")
    for fold, tested in {1: {"g01", "g02"}, 2: {"g04", "g05"}}.items():
        found = list_clips(tree, fold=fold)
        assert Counter((clip.caption, clip.split) for clip in found) == {
            (caption, split): count
            for caption in ("apply eye makeup", "handstand pushups", "yo yo")
            for split, count in (("train", 6), ("test", 4))
        }
        assert {clip.id.split("_")[-2] for clip in found if clip.split == "test"} == tested
    assert all(clip.id == clip.path.relative_to(tree).as_posix() for clip in found)
    assert len(probe(VideoFile.of(found[0])).times) == 36


def test_names_differ_in_case_and_suffix_as_they_do_between_copies(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tree / "HandstandPushups").rename(tree / "HandStandPushups")
    video = tree / "HandStandPushups" / "v_HandstandPushups_g01_c01.avi"
    video.rename(video.with_name("v_HandStandPushups_g01_c01.mp4"))
    clip = next(clip for clip in list_clips(tree) if clip.id.startswith("HandstandPushups/v_HandstandPushups_g01_c01"))
    assert clip.path == tree / "HandStandPushups" / "v_HandStandPushups_g01_c01.mp4"
    assert clip.caption == "handstand pushups"
    assert len(list_clips(tree)) == 30


def test_the_caption_is_a_sentence_where_one_is_wanted(tmp_path: Path) -> None:
    (clip, *_) = list_clips(make_tree(tmp_path), caption="a video of {label}")
    assert clip.caption == "a video of apply eye makeup"


def test_what_only_the_lists_or_only_the_tree_have_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = make_tree(tmp_path)
    for video in list((tree / "YoYo").iterdir()):
        video.unlink()
    for number in range(12):
        (tree / "ApplyEyeMakeup" / f"mine{number:02d}.avi").touch()
    with caplog.at_level(logging.INFO, logger="cogvid"):
        assert len(list_clips(tree)) == 20
    gone, unlisted, counts = caplog.messages
    assert "10 of the videos (YoYo/v_YoYo_g03_c01.avi, " in gone
    assert "12 of the videos (ApplyEyeMakeup/mine00.avi, " in unlisted
    assert "mine09.avi, ...)" in unlisted
    assert counts.endswith("2 classes, 12 clips for training, 8 for testing")


def test_lists_elsewhere_are_found_by_their_option(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    (tmp_path / "ucfTrainTestlist").rename(tmp_path / "lists")
    with pytest.raises(UserError, match=r"no folder ucfTrainTestlist in .*option splits .*3 folders \(ApplyEyeMakeup"):
        list_clips(tree)
    assert len(list_clips(tree, splits=str(tmp_path / "lists"))) == 30
    with pytest.raises(UserError, match=r"lists/trainlist03\.txt .*does not exist.*5 files \(classInd\.txt"):
        list_clips(tree, splits=str(tmp_path / "lists"), fold=3)


def test_a_folder_above_the_class_folders_is_answered_with_the_right_one(tmp_path: Path) -> None:
    make_tree(tmp_path)
    with pytest.raises(UserError, match=r"30 videos .*2 folders \(UCF-101, .*to lie in .*/UCF-101: set the option"):
        list_clips(tmp_path)


def test_a_tree_without_videos_is_answered_with_what_is_there_and_what_is_expected(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    shutil.rmtree(tree)
    (tree / "frames").mkdir(parents=True)
    with pytest.raises(
        UserError,
        match=r"none of the 30 .*EyeMakeup/v_.*Expected is a folder for each class.*1 folders \(frames\)",
    ):
        list_clips(tree)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("v_ApplyEyeMakeup_g01_c01.avi 1", r"trainlist01\.txt:1: expected is a line such as 'ApplyEyeMakeup/v_"),
        ("ApplyEyeMakeup/v_x.avi 1 2", r"trainlist01\.txt:1: expected is a line such as 'ApplyEyeMakeup/v_"),
        ("Juggling/v_x.avi 1", r"trainlist01\.txt:1: Juggling is none of the 3 classes"),
        ("YoYo/v_x.avi 1", r"trainlist01\.txt:1: YoYo is class 3 in classInd\.txt, not 1"),
        ("YoYo/v_YoYo_g03_c01.avi 3\nYoYo/v_YoYo_g03_c01.avi 3", r"trainlist01\.txt:2: .* listed already, for train"),
        ("YoYo/v_YoYo_g01_c01.avi 3", r"testlist01\.txt:5: .* listed already, for train"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    tree = make_tree(tmp_path)
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_text(line + "\n")
    with pytest.raises(UserError, match=message):
        list_clips(tree)


def test_the_fingerprint_covers_the_lists_of_the_fold_and_the_videos(tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    source = Ucf101(Ucf101.Config(path=str(tree)))
    before = source.fingerprint()
    (tmp_path / "ucfTrainTestlist" / "trainlist02.txt").write_text("")
    assert source.fingerprint() == before
    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text("")
    assert source.fingerprint() != before
    after = source.fingerprint()
    (tree / "YoYo" / "v_YoYo_g01_c01.avi").write_text("new")
    assert source.fingerprint() != after
