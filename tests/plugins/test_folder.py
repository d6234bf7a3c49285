from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cogvid import Clip, UserError, create_component
from cogvid_plugins.data.folder import Folder

# Prints how many captions a folder has, and the most bytes that this process took more than before.
COUNT_CAPTIONS = """
import sys
from pathlib import Path
from cogvid_plugins.data.folder import Folder

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

source = Folder(Folder.Config(path=sys.argv[1]))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
source.fingerprint()
count = sum(1 + len(clip.captions) for clip in source.clips(Path(), 0, lambda done, total: None))
print(count, status("VmHWM") - before)
"""


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
    return list(Folder(Folder.Config(path=str(folder), **options)).clips(own, seed, lambda done, total: None))


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


def test_a_csv_is_found_and_its_rows_are_read_again_wherever_they_begin(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(3)]
    make_videos(tmp_path, names)
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        file.write("\n")
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(["caption", "file"])
        for turn in range(3):
            writer.writerows([f"é{turn}\r\n{name}, \u2028", name] for name in names)
            file.write("\r\n")
    clips = list_clips(tmp_path)
    assert [clip.id for clip in clips] == names
    for clip in clips:
        assert (clip.caption, *clip.captions) == tuple(f"é{turn}\r\n{clip.id}," for turn in range(3))


def test_a_csv_may_end_its_lines_with_carriage_returns_alone(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "captions.csv").write_bytes(b"file,caption\ra.mp4,one\rb.mp4,two\ra.mp4,three\r")
    assert [(clip.caption, *clip.captions) for clip in list_clips(tmp_path)] == [("one", "three"), ("two",)]


def test_captions_in_text_files_beside_the_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_videos(tmp_path, ["b.mp4", "cats/one.v2.webm", "cats/two.mp4", "blank.avi", "silent.mov"])
    (tmp_path / "b.txt").write_bytes("\ufeffa café\r\n\r\n  two\u2028lines \r\n".encode())
    (tmp_path / "cats" / "one.v2.txt").write_text("a cat")
    (tmp_path / "cats" / "two.txt").write_text("two cats\n")
    (tmp_path / "blank.txt").write_text(" \n")
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        clips = list_clips(tmp_path, test_share=0)
    assert clips == [
        Clip("b.mp4", tmp_path / "b.mp4", "a café", "train", ("two\u2028lines",)),
        Clip("cats/one.v2.webm", tmp_path / "cats/one.v2.webm", "a cat", "train"),
        Clip("cats/two.mp4", tmp_path / "cats/two.mp4", "two cats", "train"),
    ]
    (message,) = caplog.messages
    assert "2 of the videos (blank.avi, silent.mov)" in message


def test_text_files_and_a_captions_file_choose_the_same_split(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(20)]
    make_videos(tmp_path, names)
    for name in names:
        (tmp_path / name).with_suffix(".txt").write_text(f"video {name}")
    write_captions(tmp_path, captioned(names))
    of_file = {(clip.id, clip.caption, clip.split) for clip in list_clips(tmp_path, 5, test_share=0.3)}
    assert of_file == {
        (clip.id, clip.caption, clip.split) for clip in list_clips(tmp_path, 5, test_share=0.3, captions=".txt")
    }


def test_two_names_of_a_video_with_text_files_are_in_one_split(tmp_path: Path) -> None:
    make_videos(tmp_path, [f"{number}.mp4" for number in range(10)])
    (tmp_path / "links").mkdir()
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("one")
        (tmp_path / "links" / f"{number}.mp4").symlink_to(tmp_path / f"{number}.mp4")
        (tmp_path / "links" / f"{number}.txt").write_text("other")
    splits = {clip.id: clip.split for clip in list_clips(tmp_path, test_share=0.5)}
    assert len(splits) == 20
    assert all(splits[f"{number}.mp4"] == splits[f"links/{number}.mp4"] for number in range(10))
    assert list(splits.values()).count("test") == 10


def test_a_text_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "a.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt: the captions are not in UTF-8"):
        list_clips(tmp_path)


def test_a_name_that_is_no_text_is_passed_over(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    (tmp_path / "a.txt").write_text("a")
    assert [clip.id for clip in list_clips(tmp_path)] == ["a.mp4"]


def test_the_fingerprint_covers_text_files(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4", "b.mp4"])
    source = Folder(Folder.Config(path=str(tmp_path)))
    seen = {source.fingerprint()}
    (tmp_path / "a.txt").write_text("one")
    seen.add(source.fingerprint())
    (tmp_path / "a.txt").write_text("longer")
    seen.add(source.fingerprint())
    (tmp_path / "b.mp4").write_text("new")
    seen.add(source.fingerprint())
    assert len(seen) == 4


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs a kernel that counts memory anew")
@pytest.mark.parametrize("beside", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ten_times_the_captions_take_little_more_memory(tmp_path: Path, beside: bool) -> None:
    """What 200,000 captions take more than 20,000 is less than their bare text: they are never held, not even once."""
    words = "a person does something with something else " * 6
    peaks = []
    for videos in (200, 2000):
        folder = tmp_path / str(videos)
        make_videos(folder, [f"{number}.mp4" for number in range(videos)])
        if beside:
            for number in range(videos):
                (folder / f"{number}.txt").write_text("".join(f"{turn} {words}\n" for turn in range(100)))
        else:
            rows = ({"file": f"{n}.mp4", "caption": f"{turn} {words}"} for turn in range(100) for n in range(videos))
            with (folder / "captions.jsonl").open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        measured = subprocess.run([sys.executable, "-c", COUNT_CAPTIONS, folder], capture_output=True, check=True)
        count, peak = map(int, measured.stdout.split())
        assert count == 100 * videos
        peaks.append(peak)
    print(peaks)
    assert peaks[1] - peaks[0] < 1800 * 100 * len(words) * 0.75


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


def test_all_lines_of_a_video_are_one_clip_wherever_they_stand(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(5)]
    make_videos(tmp_path, names)
    rows = [{"file": name, "caption": f"{name} {turn}"} for turn in ("one", "two", "three") for name in names]
    rows.insert(7, {"file": "./sub/../3.mp4", "caption": "another name", "id": "third", "split": "test"})
    make_videos(tmp_path, ["sub/b.mp4"])
    write_captions(tmp_path, rows)
    clips = {clip.id: clip for clip in list_clips(tmp_path)}
    assert list(clips) == ["0.mp4", "1.mp4", "2.mp4", "third", "4.mp4"]
    assert [clip.caption for clip in clips.values()] == [f"{name} one" for name in names]
    assert clips["4.mp4"].captions == ("4.mp4 two", "4.mp4 three")
    assert clips["third"] == Clip(
        "third", tmp_path / "3.mp4", "3.mp4 one", "test", ("another name", "3.mp4 two", "3.mp4 three")
    )


def test_the_split_of_a_folder_is_what_it_always_was(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(20)]
    make_videos(tmp_path, names)
    write_captions(tmp_path, captioned(names))
    tested = [clip.id for clip in list_clips(tmp_path, 3, test_share=0.2) if clip.split == "test"]
    assert tested == ["2.mp4", "6.mp4", "7.mp4", "9.mp4"]


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
        ('{"file": "b.mp4", "caption": "a", "id": "first"}', r"captions\.jsonl:2: the id 'first'.* another video"),
        (
            '{"file": "a.mp4", "caption": "a", "id": "2nd"}',
            r"captions\.jsonl:2: .* id 2nd, on line 1 of first",
        ),
    ],
)
def test_a_wrong_line_is_named_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    make_videos(tmp_path, ["a.mp4"])
    first = json.dumps({"file": "a.mp4", "caption": "a", "id": "first"})
    make_videos(tmp_path, ["b.mp4"])
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
    with pytest.raises(UserError, match=r'words\.jsonl does not exist.*{"file": .*"caption": .*\.txt'):
        list_clips(tmp_path, captions="words.jsonl")


@pytest.mark.parametrize("captions", [None, ".txt"])
def test_videos_without_any_captions_are_answered_with_what_is_there_and_what_is_expected(
    tmp_path: Path, captions: str | None
) -> None:
    make_videos(tmp_path, ["a.mp4", "sub/b.mp4", "notes.md"])
    with pytest.raises(
        UserError,
        match=r"holds 2 videos \(a\.mp4, sub/b\.mp4\).*captions\.jsonl or captions\.csv.*a\.txt"
        r".*1 folders \(sub\) and 2 files \(a\.mp4, notes\.md\)",
    ):
        list_clips(tmp_path, captions=captions)


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


def test_lines_without_a_split_follow_one_of_their_video_that_gives_it(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(10)]
    make_videos(tmp_path, names)
    for split in ("train", "test"):
        write_captions(tmp_path, [*captioned(names), *captioned(names), {**captioned(names)[3], "split": split}])
        splits = {clip.split for clip in list_clips(tmp_path, test_share=0.5) if clip.path.name == "3.mp4"}
        assert splits == {split}


def test_a_video_in_both_splits_is_an_error_that_names_both_lines(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4", "sub/b.mp4"])
    splits = [("a.mp4", "train"), ("sub/b.mp4", "train"), ("sub/../a.mp4", "test")]
    write_captions(tmp_path, [{"file": file, "caption": "a", "split": split} for file, split in splits])
    with pytest.raises(UserError, match=r"captions\.jsonl:3: the video .*a\.mp4 .*test, on line 1 of train"):
        list_clips(tmp_path)


def test_two_names_of_one_video_are_in_one_split(tmp_path: Path) -> None:
    names = [f"{number}.mp4" for number in range(10)]
    make_videos(tmp_path, names)
    (tmp_path / "links").mkdir()
    for name in names:
        (tmp_path / "links" / name).symlink_to(tmp_path / name)
    absolute = [str(tmp_path / name) for name in names]
    write_captions(tmp_path, [*captioned(names), *captioned(absolute), *captioned([f"links/{name}" for name in names])])
    splits: dict[str, set[str]] = {}
    for clip in list_clips(tmp_path, test_share=0.5):
        splits.setdefault(clip.path.name, set()).add(clip.split)
    assert all(len(own) == 1 for own in splits.values())
    assert list(splits.values()).count({"test"}) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,caption\na.mp4,a cat, and a dog\n", r"captions\.csv:2: the line has 3 columns, the header 2"),
        (
            'file,caption\n"a.mp4",a\na.mp4,"a cat\na.mp4,b\n',
            r"captions\.csv:3: no valid CSV \(unexpected end",
        ),
        ('file,caption\na.mp4,"a" cat\n', r"captions\.csv:2: no valid CSV"),
        (f"file,caption\n\na.mp4,{'a' * 200_000}\n", r"captions\.csv:3: no valid CSV \(field larger than field limit"),
        ("file,caption,caption\na.mp4,a,b\n", r"captions\.csv:1: a column stands twice"),
        ("file,caption\na.mp4\n", r"captions\.csv:2: the column 'caption' is missing"),
    ],
    ids=["surplus", "unclosed", "behind a quote", "over-long", "twice", "short"],
)
def test_a_wrong_line_of_a_csv_is_named_with_its_number(tmp_path: Path, content: str, message: str) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        list_clips(tmp_path, captions="captions.csv")


def test_a_quoted_caption_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.csv").write_text(
        'file,caption,split\r\na.mp4,"a ""big"",\r\nred cat",train\r\na.mp4,b\r\n', newline=""
    )
    clips = list_clips(tmp_path, captions="captions.csv")
    assert [(clip.caption, *clip.captions) for clip in clips] == [('a "big",\r\nred cat', "b")]


@pytest.mark.parametrize("character", ["\u2028", "\u0085"])
def test_json_lines_end_at_newlines_alone(tmp_path: Path, character: str) -> None:
    make_videos(tmp_path, ["a.mp4", "b.mp4"])
    lines = [f'{{"file": "{name}", "caption": "one{character}line"}}\r\n' for name in ("a.mp4", "b.mp4")]
    (tmp_path / "captions.jsonl").write_text("".join(lines), encoding="utf-8", newline="")
    assert [clip.caption for clip in list_clips(tmp_path)] == [f"one{character}line"] * 2


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"file": "a.mp4", "caption": "a", "id": ' + "9" * 5000 + "}",
        r'{"file": "a.mp4", "caption": "half \ud83d"}',
        r'{"file": "a\u0000.mp4", "caption": "a"}',
    ],
    ids=["nested", "number", "surrogate", "nul"],
)
def test_what_is_no_text_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    make_videos(tmp_path, ["a.mp4"])
    (tmp_path / "captions.jsonl").write_text(json.dumps(captioned(["a.mp4"])[0]) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"captions\.jsonl:2: "):
        list_clips(tmp_path)


def test_a_name_too_long_for_a_file_is_a_missing_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_videos(tmp_path, ["a.mp4"])
    write_captions(tmp_path, captioned(["a.mp4", "b" * 300 + ".mp4"]))
    assert [clip.id for clip in list_clips(tmp_path)] == ["a.mp4"]


def test_videos_outside_the_folder_are_found_by_their_paths(tmp_path: Path) -> None:
    make_videos(tmp_path, ["elsewhere/a.mp4", "elsewhere/b.mp4", "home/notes.txt"])
    names = [str(tmp_path / "elsewhere" / "a.mp4"), "../elsewhere/b.mp4"]
    write_captions(tmp_path / "home", captioned(names))
    assert [clip.path.resolve().name for clip in list_clips(tmp_path / "home")] == ["a.mp4", "b.mp4"]


def test_the_fingerprint_covers_the_captions_and_exactly_the_files_that_they_name(tmp_path: Path) -> None:
    make_videos(tmp_path, ["home/a.mp4", "home/silent.mp4", "elsewhere/b.mp4"])
    home, outside = tmp_path / "home", tmp_path / "elsewhere" / "b.mp4"
    write_captions(home, captioned(["a.mp4", str(outside), "later.mp4"]))
    source = Folder(Folder.Config(path=str(home)))

    def changed(touch: Any) -> bool:
        before = source.fingerprint()
        touch()
        return source.fingerprint() != before

    assert not changed(lambda: None)
    assert changed(lambda: (home / "a.mp4").write_bytes(b"new"))
    assert changed(lambda: outside.write_bytes(b"new"))
    assert changed(lambda: (home / "later.mp4").write_bytes(b"there now"))
    assert not changed(lambda: (home / "silent.mp4").write_bytes(b"new"))
    assert not changed(lambda: (home / "more.mp4").write_bytes(b"new"))

    captions = home / "captions.jsonl"
    states = captions.stat()

    def rewrite() -> None:  # as long as before, and with its old time
        captions.write_text(captions.read_text().replace("video a.mp4", "video A.mp4"))
        os.utime(captions, ns=(states.st_atime_ns, states.st_mtime_ns))

    assert changed(rewrite)
