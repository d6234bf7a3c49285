from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cogvid import Clip, UserError, create_component
from cogvid_plugins.data.folder import Folder


def make_videos(folder: Path, names: list[str]) -> None:
    """Files with the names of videos; this data source does not look into them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_captions(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def captioned(names: list[str]) -> list[dict[str, str]]:
    return [{"file": name, "caption": f"video {name}"} for name in names]


def list_clips(folder: Path, seed: int = 0, **options: Any) -> list[Clip]:
    own = folder / "own"
    return Folder(Folder.Config(path=str(folder), **options)).clips(own, seed, lambda done, total: None)


def test_clips_are_listed_in_the_order_of_the_captions_file(tmp_path: Path) -> None:
    make_videos(tmp_path, ["b.mp4", "deep/er/a.webm"])
    write_captions(
        tmp_path,
        [
            {"file": "deep/er/a.webm", "caption": " a dog sits ", "split": "test", "id": "dog"},
            {"file": "b.mp4", "caption": "a cat runs", "split": "train"},
        ],
    )
    assert list_clips(tmp_path) == [
        Clip("dog", tmp_path / "deep/er/a.webm", "a dog sits", "test"),
        Clip("b.mp4", tmp_path / "b.mp4", "a cat runs", "train"),
    ]


def test_csv_says_the_same_as_json_lines(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(4)]
    make_videos(tmp_path, names)
    write_captions(tmp_path, captioned(names))
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["caption", "file"])
        writer.writeheader()
        writer.writerows(captioned(names))
    assert list_clips(tmp_path, captions="captions.csv") == list_clips(tmp_path)


def test_a_relative_path_starts_at_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_videos(tmp_path / "videos", ["a.mp4"])
    write_captions(tmp_path / "videos", captioned(["a.mp4"]))
    monkeypatch.chdir(tmp_path)
    (clip,) = list_clips(Path("videos"))
    assert clip.path.samefile(tmp_path / "videos" / "a.mp4")


def test_the_test_share_is_taken_by_seed_and_by_video(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(40)]
    make_videos(tmp_path, names)
    write_captions(tmp_path, captioned(names) + captioned(names))

    def tested(seed: int) -> set[str]:
        clips = list_clips(tmp_path, seed, test_share=0.25)
        tested = {clip.path.name for clip in clips if clip.split == "test"}
        assert tested.isdisjoint({clip.path.name for clip in clips if clip.split == "train"})
        return tested

    assert len(tested(0)) == 10
    assert tested(0) == tested(0)
    assert tested(0) != tested(1)


def test_a_video_with_two_captions_gives_two_clips_with_ids_of_their_own(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    write_captions(tmp_path, captioned(["a.mp4", "a.mp4"]))
    assert [clip.id for clip in list_clips(tmp_path)] == ["a.mp4", "a.mp4#2"]


@pytest.mark.parametrize(("count", "tested"), [(1, 0), (2, 1), (5, 1)])
def test_two_videos_are_enough_for_both_splits(tmp_path: Path, count: int, tested: int) -> None:
    names = [f"{number}.mp4" for number in range(count)]
    make_videos(tmp_path, names)
    write_captions(tmp_path, captioned(names))
    assert [clip.split for clip in list_clips(tmp_path)].count("test") == tested


def test_captions_without_video_and_videos_without_caption_are_reported_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_videos(tmp_path, ["a.mp4", "silent.mov", "sub/quiet.avi", "._a.mp4"])
    write_captions(tmp_path, captioned(["a.mp4", "gone.mp4"]))
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        clips = list_clips(tmp_path)
    assert [clip.id for clip in clips] == ["a.mp4"]
    missing, uncaptioned = caplog.messages
    assert "gone.mp4" in missing
    assert "2 of the videos (silent.mov, sub/quiet.avi)" in uncaptioned


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{file: a.mp4}", r"captions\.jsonl:2: no valid JSON"),
        ("3", r"captions\.jsonl:2: .*JSON object"),
        ('{"file": "a.mp4", "text": "a"}', r"captions\.jsonl:2: the column 'caption' is missing.*file, text"),
        ('{"caption": "a"}', r"captions\.jsonl:2: the column 'file' is missing"),
        ('{"file": "a.mp4", "caption": " "}', r"captions\.jsonl:2: the caption is empty"),
        ('{"file": "a.mp4", "caption": null}', r"captions\.jsonl:2: the caption is empty"),
        (
            '{"file": "a.mp4", "caption": "a", "split": "val"}',
            r"captions\.jsonl:2: .*train or test, not 'val'",
        ),
        ('{"file": "a.mp4", "caption": "a", "id": "first"}', r"captions\.jsonl:2: the id 'first'"),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    make_videos(tmp_path, ["a.mp4"])
    first = json.dumps({"file": "a.mp4", "caption": "a", "id": "first"})
    (tmp_path / "captions.jsonl").write_text(f"{first}\n{line}\n")
    with pytest.raises(UserError, match=message):
        list_clips(tmp_path)


def test_a_csv_without_the_caption_column_is_named(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.csv").write_text("file,words\na.mp4,hello\n")
    with pytest.raises(UserError, match=r"captions\.csv:2: the column 'caption' is missing"):
        list_clips(tmp_path, captions="captions.csv")


def test_a_missing_captions_file_is_answered_with_an_example(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    with pytest.raises(UserError, match=r'captions\.jsonl does not exist.*{"file": .*"caption": '):
        list_clips(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n \n"], ids=["empty", "blank"])
def test_a_captions_file_without_lines_is_an_error(tmp_path: Path, content: bytes) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"captions\.jsonl has no lines"):
        list_clips(tmp_path)


def test_a_captions_file_in_another_encoding_is_an_error(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.jsonl").write_bytes('{"file": "a.mp4", "caption": "café"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"captions\.jsonl is not in UTF-8"):
        list_clips(tmp_path)


def test_captions_that_all_miss_their_videos_are_an_error(tmp_path: Path) -> None:
    make_videos(tmp_path, ["other.mp4"])
    write_captions(tmp_path, captioned(["a.mp4"]))
    with pytest.raises(UserError, match=r"captions\.jsonl: none of its videos exists, a\.mp4"):
        list_clips(tmp_path)


def test_captions_for_the_test_split_alone_are_an_error(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    write_captions(tmp_path, [{"file": "a.mp4", "caption": "a", "split": "test"}])
    with pytest.raises(UserError, match=r"captions\.jsonl leaves nothing to train on"):
        list_clips(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        list_clips(tmp_path / "nowhere")


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    write_captions(tmp_path, captioned(["a.mp4"]))
    with pytest.raises(UserError, match=r"holds no videos"):
        list_clips(tmp_path)


def test_a_test_share_of_everything_is_refused() -> None:
    with pytest.raises(UserError, match="test_share"):
        create_component("data", "folder", {"path": "videos", "test_share": 1.0})
