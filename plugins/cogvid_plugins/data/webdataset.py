"""Data source `webdataset`: tar shards of videos and their captions, read where they lie.

The convention is the webdataset library's, and so is the code that names and groups: files of a shard that follow each
other and have the same name up to the first dot behind the last slash are one sample.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import file_name, from_to_below, not_blank, option
from cogvid.data.files import VIDEO_SUFFIXES
from cogvid.interfaces.data_source import Member, Progress
from cogvid_plugins.data.captions import checked_split, text_captions
from cogvid_plugins.data.lines import json_object
from cogvid_plugins.data.trees import (
    SPLITS,
    LeftOut,
    file_state,
    fingerprint,
    is_text,
    listed,
    report,
    share_end,
    share_key,
    there_is,
)

# How files begin that are compressed.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
# The library's own notes in a shard.
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class Sample:
    """Files of a shard that belong together.

    Attributes:
        shard: the tar file.
        name: of the video in it, which is its id, as that of a file in a folder.
        video: where it lies.
        captions: one or more.
        split: `train`, `test`, or empty where it is still to be chosen.
    """

    shard: Path
    name: str
    video: Member
    captions: list[str]
    split: str


class _Notes:
    """What is left out of shards, and the kinds of files in them."""

    def __init__(self) -> None:
        self.silent, self.empty, self.kinds = LeftOut(), LeftOut(), set[str]()


class WebDataset(DataSource):
    """Tar shards, each with many videos and, beside each, a `.json` or a `.txt` with its captions.

    Nothing is unpacked: videos are decoded where they lie in the shards, which are therefore not compressed. A caption
    stands under a key of the `.json`, which may also hold a list of several, or they are the lines of the `.txt`. The
    split is that of the shard (`test` names shards), else the one under the key `split` of the `.json`, else chosen by
    the seed as the source `folder` does it.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # a folder of .tar files, or their names: data/{000..099}.tar
        test: str | None = option(None, file_name())  # shards of the test split, as in path; no others are
        video: str | None = option(None, not_blank())  # the extension of the videos, where samples have several
        caption: str = option("caption", not_blank())  # the key of captions in the .json
        test_share: float = option(0.1, from_to_below(0, 1))  # of the videos that nothing gives a split

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        _library()

    def fingerprint(self) -> str:
        """Names, sizes and times of the shards."""
        return fingerprint((str(shard), file_state(shard), tested) for shard, tested in self._shards().items())

    def clips(self, folder: Path, seed: int, progress: Progress) -> Iterator[Clip]:
        """The clips of all shards, in their order; nothing is written."""
        shards = self._shards()
        keys, splits = self._survey(shards, seed)
        end = share_end(keys[splits == 0], self.config.test_share)
        tested = (splits == 2) | ((splits == 0) & (keys < end))
        if tested.all():
            raise UserError(f"{self.config.path} leaves nothing to train on: every video in it is of the split test.")
        unique, counts = np.unique(keys, return_counts=True)
        again = set(unique[counts > 1].tolist())
        for number, sample in enumerate(self._samples(shards, _Notes())):
            # Names that stand in several shards say which.
            name = f"{sample.shard.name}/{sample.name}" if int(keys[number]) in again else sample.name
            split = SPLITS[int(tested[number])]
            caption, *more = sample.captions
            yield Clip(name, sample.shard, caption, split, tuple(more), sample.video)
            report(progress, number + 1, len(keys))

    def _survey(self, shards: dict[Path, bool], seed: int) -> tuple[Any, Any]:
        """What chooses each sample's split, and what is given already: 0 for none, 1 for train, 2 for test."""
        notes = _Notes()
        samples = self._samples(shards, notes)
        found = ((share_key(seed, sample.name), ("", *SPLITS).index(sample.split)) for sample in samples)
        rows = np.fromiter(found, dtype=[("key", "u8"), ("split", "u1")])
        notes.silent.warn(self.config.path, f"they have no .txt, and no {self.config.caption!r} in a .json")
        notes.empty.warn(self.config.path, "they have no video", "samples")
        if not len(rows):
            raise UserError(
                f"The {len(shards)} shards {self.config.path} hold no captioned videos: there are {notes.silent.count} "
                f"videos without captions, and files of the kinds {listed(sorted(notes.kinds)) or 'none'}. Expected "
                f"are a video ({', '.join(sorted(VIDEO_SUFFIXES))}) and behind it, with the same name, a .txt with its "
                f"captions or a .json with the key {self.config.caption!r}, which the option caption of the data "
                "source 'webdataset' sets."
            )
        return rows["key"], rows["split"]

    def _shards(self) -> dict[Path, bool]:
        """The shards, each with whether it is of the test split."""
        tested = dict.fromkeys(_expand(self.config.test, "test"), True) if self.config.test else {}
        return dict.fromkeys(_expand(self.config.path, "path"), False) | tested

    def _samples(self, shards: dict[Path, bool], notes: _Notes) -> Iterator[Sample]:
        """The samples that have a video and captions."""
        for shard, tested in shards.items():
            with _opened(shard) as archive, shard.open("rb") as file:
                for sample in _grouped(shard, archive):
                    notes.kinds.update(kind for kind in sample if not kind.startswith("__"))
                    kind = self._video(shard, sample)
                    if kind is None:
                        notes.empty.add(sample["__key__"])
                        continue
                    video = sample[kind]
                    captions, split = self._said(shard, file, sample)
                    if not captions:
                        notes.silent.add(video.name)
                        continue
                    given = "test" if tested else split or ("train" if self.config.test else "")
                    yield Sample(shard, os.path.normpath(video.name), video, captions, given)

    def _video(self, shard: Path, sample: dict[str, Any]) -> str | None:
        """The extension of a sample's video."""
        if self.config.video is not None:
            wanted = self.config.video.lower().removeprefix(".")
            return wanted if wanted in sample else None
        kinds = [kind for kind in sample if f".{kind.rpartition('.')[2]}" in VIDEO_SUFFIXES]
        if len(kinds) > 1:
            raise UserError(
                f"{shard}: the sample {sample['__key__']} has several videos, {listed(kinds)}. Say which with the "
                "option video of the data source 'webdataset'."
            )
        return kinds[0] if kinds else None

    def _said(self, shard: Path, file: Any, sample: dict[str, Any]) -> tuple[list[str], str]:
        """Captions and split that a sample gives."""
        captions, split = [], ""
        if "json" in sample:
            place = f"{sample['json'].name} in {shard}"
            values = json_object(place, _read(file, sample["json"]))
            split = checked_split(place, values.get("split"))
            captions = _captions(place, self.config.caption, values.get(self.config.caption))
        if not captions and "txt" in sample:
            captions = text_captions(f"{sample['txt'].name} in {shard}", _read(file, sample["txt"]))
        return captions, split


def _captions(place: str, key: str, value: Any) -> list[str]:
    captions = value if isinstance(value, list) else [] if value is None else [value]
    for caption in captions:
        if not isinstance(caption, str) or not is_text(caption):
            raise UserError(f"{place}: {key!r} is text or a list of texts, not {str(value)[:80]!r}.")
    return [caption.strip() for caption in captions if caption.strip()]


def _read(file: Any, member: Member) -> bytes:
    file.seek(member.offset)
    return bytes(file.read(member.size))


def _opened(shard: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(shard, "r:")
    except OSError as error:
        raise UserError(f"The shard {shard} cannot be read: {error.strerror}.") from error
    except tarfile.TarError as error:
        with shard.open("rb") as file:
            start = file.read(8)
        how = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
        if how is None:
            raise UserError(f"{shard} is no tar archive ({error}).") from error
        raise UserError(
            f"The shard {shard} is compressed ({how}). Videos are read where they lie in a shard, which a compressed "
            "one does not allow, and they are compressed themselves. Decompress it to a .tar, and name that."
        ) from error


def _grouped(shard: Path, archive: tarfile.TarFile) -> Iterator[dict[str, Any]]:
    """The samples of a shard: each file's place by its extension, and `__key__`."""

    def members() -> Iterator[dict[str, Any]]:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # else all of them stay in memory
            if not info.isreg() or _META.match(info.name):
                continue
            if info.issparse() or not is_text(info.name):
                raise UserError(f"{shard}: {info.name!r} is a sparse file, or its name is not in UTF-8. Pack it anew.")
            member = Member(info.name, info.offset_data, info.size)
            yield {"fname": info.name, "data": member, "__url__": str(shard)}
        _check_end(shard, archive.offset)

    library = _library()
    try:
        yield from library.tariterators.group_by_keys(members())
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{shard}: {error.args[0]}. A sample has one file of each extension.") from error
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"The shard {shard} is damaged: {error}. Copy it again, or leave it out.") from error


def _check_end(shard: Path, offset: int) -> None:
    """Python takes a header that it cannot read for the end of an archive."""
    with shard.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"what is at byte {offset} is no file of a tar archive")


def _expand(pattern: str, name: str) -> list[Path]:
    """The shards that an option names: a folder, or names with braces."""
    advice = (
        f"Set the option {name} of the data source 'webdataset' to a folder of .tar files or to their names, such as "
        "data/{000..099}.tar; relative paths start at the current directory."
    )
    home = Path(pattern).expanduser()
    if home.is_dir():
        shards = sorted(path for path in home.iterdir() if path.suffix == ".tar" and path.name[0] != ".")
        if not shards:
            raise UserError(f"The folder {home} holds no .tar files. {advice} What is there: {there_is(home)}.")
        return shards
    try:
        names = _library().shardlists.expand_urls(pattern)
    except (ValueError, AssertionError) as error:
        raise UserError(f"{pattern!r} names no shards: {error}. {advice}") from error
    far = [name for name in names if "://" in name or name.startswith("pipe:")]
    if far:
        raise UserError(f"The shard {far[0]} is not on a disk here, where videos are read from. Copy it. {advice}")
    shards = [Path(name).expanduser() for name in names]
    gone = [str(shard) for shard in shards if not shard.is_file()]
    if gone:
        raise UserError(f"{len(gone)} of the {len(shards)} shards do not exist: {listed(gone)}. {advice}")
    return shards


def _library() -> ModuleType:
    try:
        import webdataset.shardlists
        import webdataset.tariterators
    except ImportError as error:
        raise UserError(
            "The data source 'webdataset' needs the package of this name, which is not installed. Run: pip install "
            '"cogvid[webdataset]"'
        ) from error
    return webdataset


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `webdataset`."""
    return {"webdataset": WebDataset}
