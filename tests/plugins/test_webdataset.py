from __future__ import annotations

import gzip
import io
import json
import logging
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cogvid import Clip, UserError
from cogvid.interfaces.data_source import Member
from cogvid_plugins.data.folder import Folder
from cogvid_plugins.data.webdataset import WebDataset

Files = Mapping[str, bytes | str | dict[str, Any]]


def write_shard(path: Path, files: Files) -> Path:
    """A shard in which each video's bytes are its own name, where nothing else is said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def sample(name: str, caption: str, **more: Any) -> dict[str, bytes | str | dict[str, Any]]:
    return {f"{name}.mp4": f"{name}.mp4", f"{name}.json": {"caption": caption, **more}}


def list_clips(path: Path | str, seed: int = 0, **options: Any) -> list[Clip]:
    source = WebDataset(WebDataset.Config(path=str(path), **options))
    return list(source.clips(Path("own"), seed, lambda done, total: None))


def content(clip: Clip) -> bytes:
    """The bytes that the core reads."""
    assert clip.member is not None
    with clip.path.open("rb") as file:
        file.seek(clip.member.offset)
        return file.read(clip.member.size)


def test_clips_lie_where_they_are_in_the_shards(tmp_path: Path) -> None:
    long = "folder/" * 30 + "long"  # a name that takes a header of its own
    write_shard(
        tmp_path / "b.tar",
        {"x/c.v2.webm": "c", "x/c.json": {"caption": ["one", " two "]}, "d.MP4": "d.MP4", "d.txt": "a\n\nb\n"},
    )
    write_shard(tmp_path / "a.tar", {"__note__": "", **sample("./a", "first"), **sample(long, "second")})
    found = list_clips(tmp_path, test_share=0)
    assert [(clip.id, clip.path.name, clip.caption, clip.captions) for clip in found] == [
        ("a.mp4", "a.tar", "first", ()),
        (f"{long}.mp4", "a.tar", "second", ()),
        ("x/c.v2.webm", "b.tar", "one", ("two",)),
        ("d.MP4", "b.tar", "a", ("b",)),
    ]
    assert [content(clip).decode() for clip in found] == ["./a.mp4", f"{long}.mp4", "c", "d.MP4"]


@pytest.mark.parametrize("pattern", ["shards/{000..002}.tar", "shards/{000,001,002}.tar", "shards"])
def test_shards_are_named_by_braces_or_by_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    for number in range(3):
        write_shard(tmp_path / "shards" / f"{number:03d}.tar", sample(f"{number}", "a"))
    monkeypatch.chdir(tmp_path)
    assert [clip.path.name for clip in list_clips(pattern)] == ["000.tar", "001.tar", "002.tar"]


def test_the_split_is_that_of_the_shard_then_that_of_the_sample_then_chosen(tmp_path: Path) -> None:
    files = {
        **sample("a", "a", split="test"),
        **sample("b", "b", split="train"),
        **sample("c", "c"),
        **sample("d", "d"),
    }
    write_shard(tmp_path / "0.tar", files)
    test = write_shard(tmp_path / "1.tar", {**sample("e", "e"), **sample("f", "f", split="train")})

    def splits(**options: Any) -> dict[str, str]:
        return {clip.id[0]: clip.split for clip in list_clips(tmp_path, **options)}

    chosen = splits(test_share=0.5)
    assert (chosen["a"], chosen["b"], chosen["f"]) == ("test", "train", "train")
    assert sorted(chosen[name] for name in "cde") == ["test", "test", "train"]
    assert splits(test=str(test)) == {**dict.fromkeys("aef", "test"), **dict.fromkeys("bcd", "train")}


def test_ids_and_the_chosen_split_are_those_of_the_same_files_in_a_folder(tmp_path: Path) -> None:
    names = [f"{'sub/' * (number % 2)}{number:02d}" for number in range(30)]
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / f"{name}.mp4").touch()
        (tmp_path / "folder" / f"{name}.txt").write_text(name)
        write_shard(tmp_path / "shards" / f"{name.replace('/', '-')}.tar", sample(name, name))
    source = Folder(Folder.Config(path=str(tmp_path / "folder"), test_share=0.3))
    in_folder = source.clips(tmp_path, 4, lambda done, total: None)
    in_shards = list_clips(tmp_path / "shards", 4, test_share=0.3)
    assert {(c.id, c.caption, c.split) for c in in_folder} == {(c.id, c.caption, c.split) for c in in_shards}


def test_names_that_stand_in_several_shards_say_which(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {**sample("a", "one"), **sample("b", "two")})
    write_shard(tmp_path / "1.tar", sample("a", "three"))
    found = {clip.id: clip for clip in list_clips(tmp_path)}
    assert found.keys() == {"0.tar/a.mp4", "b.mp4", "1.tar/a.mp4"}
    assert found["0.tar/a.mp4"].split == found["1.tar/a.mp4"].split


def test_samples_without_a_video_or_a_caption_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files: Files = {**sample("a", "a"), "b.mp4": "", "b.json": {"text": "b"}, "c.mp4": "", "d.jpg": "", "d.txt": "d"}
    write_shard(tmp_path / "0.tar", files)
    with caplog.at_level(logging.WARNING, logger="cogvid"):
        assert [clip.id for clip in list_clips(tmp_path)] == ["a.mp4"]
    silent, empty = caplog.messages
    assert "no .txt, and no 'caption' in a .json: 2 of the videos (b.mp4, c.mp4)" in silent
    assert "no video: 1 of the samples (d)" in empty


def test_the_key_of_captions_and_the_extension_of_videos_are_options(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", {"a.left.mp4": "left", "a.right.mp4": "right", "a.json": {"text": "a cat"}})
    with pytest.raises(
        UserError, match=r"0\.tar: the sample a has several videos, left\.mp4, right\.mp4.*option video"
    ):
        list_clips(tmp_path, caption="text")
    (clip,) = list_clips(tmp_path, caption="text", video="right.mp4")
    assert (clip.id, clip.caption, content(clip)) == ("a.right.mp4", "a cat", b"right")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.mp4": "", "a.json": "{"}, r"a\.json in .*0\.tar: no valid JSON"),
        ({"a.mp4": "", "a.json": "[]"}, r"a\.json in .*0\.tar: expected is a JSON object"),
        (
            {"a.mp4": "", "a.json": {"caption": 3}},
            r"a\.json in .*0\.tar: 'caption' is text or a list of texts, not '3'",
        ),
        ({"a.mp4": "", "a.json": r'{"caption": "\ud83d"}'}, r"a\.json in .*0\.tar: 'caption' is text"),
        (sample("a", "a", split="val"), r"a\.json in .*0\.tar: the split is train or test, not 'val'"),
        ({"a.mp4": "", "a.txt": "café".encode("latin-1")}, r"a\.txt in .*0\.tar: the captions are not in UTF-8"),
        ({"a.mp4": "", "a.MP4": ""}, r"0\.tar: a\.MP4: duplicate file name"),
        ({"a.jpg": "", "a.cls": "3"}, r"no captioned videos: there are 0 videos .*kinds cls, jpg\. Expected"),
        ({"a.mp4": ""}, r"there are 1 videos without captions.*key 'caption', which the option caption"),
        (sample("a", "a", split="test"), r"leaves nothing to train on"),
    ],
)
def test_what_is_wrong_in_a_shard_is_named(tmp_path: Path, files: Files, message: str) -> None:
    write_shard(tmp_path / "0.tar", files)
    with pytest.raises(UserError, match=message):
        list_clips(tmp_path)


def test_a_compressed_shard_is_refused_with_the_reason(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", sample("a", "a"))
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    with pytest.raises(UserError, match=r"0\.tar is compressed \(gzip\)\. Videos are read where they lie"):
        list_clips(tmp_path)


@pytest.mark.parametrize("cut", [700, 1400, 1536 + 30])
def test_a_shard_that_is_cut_off_is_named(tmp_path: Path, cut: int) -> None:
    shard = write_shard(tmp_path / "0.tar", {**sample("a", "a"), **sample("b", "b")})
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"0\.tar is damaged: .*Copy it again"):
        list_clips(tmp_path)


def test_a_shard_with_a_header_that_is_none_is_named(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", {**sample("a", "a"), **sample("b", "b")})
    data = bytearray(shard.read_bytes())
    data[2048:2060] = b"\xff" * 12
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"0\.tar is damaged: what is at byte 2048 is no file"):
        list_clips(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", r"1 of the 1 shards do not exist: nowhere.*folder of \.tar files"),
        ("{0..3}.tar", r"3 of the 4 shards do not exist: 1\.tar, 2\.tar, 3\.tar"),
        ("{0..3.tar", r"'{0\.\.3\.tar' names no shards: .*\{000\.\.099\}\.tar"),
        ("pipe:cat 0.tar", r"pipe:cat 0\.tar is not on a disk here"),
        ("https://host/{0..3}.tar", r"https://host/0\.tar is not on a disk here"),
        ("notes.md", r"notes\.md is no tar archive"),
        ("sub", r"sub holds no \.tar files.*1 files \(0\.tar\.gz\)"),
    ],
)
def test_a_name_that_names_no_shards_is_answered_with_how_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shard(Path("0.tar"), sample("a", "a"))
    Path("notes.md").write_text("notes")
    Path("sub").mkdir()
    Path("sub/0.tar.gz").touch()
    with pytest.raises(UserError, match=message):
        list_clips(path)


def test_without_the_package_the_source_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "webdataset"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match=r'pip install "cogvid\[webdataset\]"'):
        WebDataset(WebDataset.Config(path="."))


def test_the_fingerprint_covers_the_shards_and_which_are_tested(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", sample("a", "a"))

    def fingerprint(**options: Any) -> str:
        return WebDataset(WebDataset.Config(path=str(tmp_path), **options)).fingerprint()

    seen = {fingerprint()}
    write_shard(tmp_path / "1.tar", sample("b", "b"))
    seen |= {fingerprint(), fingerprint(test=str(tmp_path / "1.tar"))}
    write_shard(tmp_path / "1.tar", sample("b", "longer" * 1000))
    seen.add(fingerprint())
    assert len(seen) == 4


def test_a_member_is_what_the_archive_says(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", sample("a", "a"))
    with tarfile.open(shard) as archive:
        info = archive.getmember("a.mp4")
    (clip,) = list_clips(tmp_path)
    assert clip == Clip("a.mp4", shard, "a", "train", member=Member("a.mp4", info.offset_data, info.size))
