"""The data sources conform, and their suite catches those that do not, by the name of the check."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cogvid
from cogvid import Clip, DataSource
from cogvid.data.video import write_video
from cogvid.interfaces.token_source import TokenShape, TokenSource
from cogvid.testing import ConformanceError, data_source_conformance

NAMES = tuple(f"{name}.mp4" for name in "abcdefgh")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small videos, with a captions file."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(NAMES):
        frames = np.full((6, 16, 16, 3), 30 * number, dtype=np.uint8)
        write_video(folder / name, frames + np.arange(6, dtype=np.uint8)[:, None, None, None], 12)
    rows = [{"file": name, "caption": f"grey, the {name}"} for name in NAMES]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_shapes_conforms() -> None:
    data_source_conformance("shapes", {"clips": 6, "test_clips": 2, "size": 16, "durations": [0.25]})


def test_folder_conforms(home: Path) -> None:
    data_source_conformance("folder", {"path": str(home), "test_share": 0.3})


def test_webdataset_conforms(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in NAMES:
            (tmp_path / "said.txt").write_text(f"grey, the {name}")
            archive.add(home / name, name)
            archive.add(tmp_path / "said.txt", Path(name).with_suffix(".txt").name)
    data_source_conformance("webdataset", {"path": str(tmp_path), "test_share": 0.3})


@pytest.mark.slow
def test_ucf101_conforms(home: Path, tmp_path: Path) -> None:
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    clips = {"train": [f"YoYo/v_YoYo_g0{n}_c01.avi" for n in (3, 4)], "test": ["TaiChi/v_TaiChi_g01_c01.avi"]}
    for split, names in clips.items():
        (lists / f"{split}list01.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            (tmp_path / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(home / "a.mp4", tmp_path / "UCF-101" / name)
    data_source_conformance("ucf101", {"path": str(tmp_path / "UCF-101"), "splits": str(lists)})


@pytest.mark.slow
def test_kinetics_conforms(home: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("train", "train", "val")):
        folder = tmp_path / "k" / part / "yoga"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(home / "a.mp4", folder / f"{number}bcdefghijk_000001_000011.mp4")
    data_source_conformance("kinetics", {"path": str(tmp_path / "k")})


def test_released_tokens_conforms(tmp_path: Path) -> None:
    text = [[13, 13, 11, 19], [12, 13, 14, 15], [13, 13, 13, 10]]
    rows = np.hstack([text, np.arange(18).reshape(3, 6) % 10]).astype("<i4")
    (tmp_path / "train.bin").write_bytes(rows.tobytes())
    sizes = {"text": 4, "frames": 2, "frame_tokens": 3, "image_tokens": 10, "padding": 13, "held_out": 1}
    data_source_conformance("released_tokens", {"path": str(tmp_path / "train.bin"), **sizes})


Change = Callable[[list[Clip], Path], Iterable[Clip]]


class Listed(DataSource):
    """The videos of a folder, the last of them for tests, and then something else."""

    def __init__(self, home: Path, change: Change, print_of: Callable[[], Any] = lambda: "same") -> None:
        super().__init__()
        self.home, self.change, self.print_of = home, change, print_of

    def fingerprint(self) -> Any:
        return self.print_of()

    def clips(self, folder: Path, seed: int, progress: Any) -> Iterable[Clip]:
        listed = [Clip(name, self.home / name, "grey", "train") for name in NAMES]
        listed[-1] = replace(listed[-1], split="test")
        progress(0, len(listed))
        return self.change(listed, folder)


class Loud(Listed):
    """Tells of more than there is."""

    def clips(self, folder: Path, seed: int, progress: Any) -> Iterable[Clip]:
        progress(2, 1)
        return super().clips(folder, seed, progress)


def each(**changes: Any) -> Change:
    return lambda clips, folder: [replace(clip, **changes) for clip in clips]


def second(**changes: Any) -> Change:
    return lambda clips, folder: [clips[0], replace(clips[1], **changes), *clips[2:]]


def left_over(clips: list[Clip], folder: Path) -> Iterable[Clip]:
    (folder / "cache").write_text("")
    return clips


def copied(clips: list[Clip], folder: Path, content: bytes = b"") -> Iterable[Clip]:
    """A source that makes its clips one by one."""
    for clip in clips:
        path = folder / clip.id
        path.write_bytes(clip.path.read_bytes() + content)
        yield replace(clip, path=path)


def half_made(clips: list[Clip], folder: Path) -> Iterable[Clip]:
    """One that takes what is there for all that there is to be."""
    if any(folder.iterdir()):
        return [clip for clip in copied(clips, folder) if clip.path.name in there] if (there := names(folder)) else []
    return copied(clips, folder)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def turns() -> Callable[[], int]:
    """How often it has been called."""
    calls: list[None] = []

    def turn() -> int:
        calls.append(None)
        return len(calls)

    return turn


def one_who_counts() -> tuple[Change, Callable[[], Any]]:
    turn = turns()
    return lambda clips, folder: clips[turn() % 2 :], lambda: "same"


def test_one_that_keeps_all_promises_passes(home: Path) -> None:
    data_source_conformance(Listed(home, lambda clips, folder: iter(clips)))
    data_source_conformance(Listed(home, copied))


listing, printing = turns(), turns()


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (lambda clips, folder: None, "clips"),
        (lambda clips, folder: [], "clips"),
        (lambda clips, folder: clips[-1:], "clips"),
        (lambda clips, folder: [(clip.id, clip.path) for clip in clips], "clips"),
        (second(caption=" "), "clips"),
        (second(captions=("one", 2)), "clips"),
        (second(id=2), "clips"),
        (second(id="caf\udce9"), "clips"),
        (second(split="val"), "clips"),
        (second(path="b.mp4"), "clips"),
        (second(span=(1.0, 1.0)), "clips"),
        (second(id="a.mp4"), "ids"),
        (lambda clips, folder: [*clips, replace(clips[0], id="again", split="test")], "splits"),
        (second(path=Path("nowhere.mp4")), "videos"),
        (second(path=Path(__file__)), "videos"),
        (second(span=(5.0, 6.0)), "videos"),
        (second(member=cogvid.interfaces.data_source.Member("a", 7, 99)), "videos"),
        (left_over, "folder"),
        (lambda clips, folder: clips[listing() % 2 :], "again"),
        (lambda clips, folder: clips[:: (-1) ** listing()], "again"),
        (lambda clips, folder: copied(clips, folder, bytes([listing() % 256])), "again"),
        (half_made, "stopped"),
    ],
)
def test_a_broken_promise_is_named(home: Path, change: Change, caught: str) -> None:
    fails(Listed(home, change), caught)


def test_progress_and_fingerprints_that_are_none_are_named(home: Path) -> None:
    fails(Loud(home, lambda clips, folder: clips), "progress")
    fails(Listed(home, lambda clips, folder: clips, lambda: 5), "fingerprint")
    fails(Listed(home, lambda clips, folder: clips, lambda: str(printing())), "fingerprint")


def fails(source: DataSource | TokenSource, caught: str) -> None:
    with pytest.raises(ConformanceError, match="does not conform") as error:
        data_source_conformance(source)
    assert caught in error.value.failures


PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
import cogvid
class Own(cogvid.DataSource):
    @dataclass
    class Config:
        path: str = ""
    def clips(self, folder, seed, progress):
        home = Path(self.config.path)
        {clips}
    def fingerprint(self):
        return {fingerprint}
@cogvid.hookimpl
def register_data_sources():
    return {{"own": Own}}
"""
LIST = "return [cogvid.Clip(p.name, p, 'grey', 'train') for p in {order}]"
SORTED = LIST.format(order="sorted(home.glob('*.mp4'))")
REFUSE = "if not any(home.glob('*')): raise cogvid.UserError({message})\n        "
NAMED = REFUSE.format(message="f'{home} holds no videos'")


@pytest.mark.parametrize(
    ("clips", "fingerprint", "caught"),
    [
        pytest.param(NAMED + SORTED, "'same'", None, marks=pytest.mark.slow),
        (
            NAMED + LIST.format(order="[home / name for name in {p.name for p in home.glob('*.mp4')}]"),
            "''",
            "elsewhere",
        ),
        (NAMED + SORTED, "str(hash('same'))", "fingerprint"),
        (SORTED, "'same'", "nothing"),
        pytest.param(
            REFUSE.format(message="'there are no videos'") + SORTED, "'same'", "nothing", marks=pytest.mark.slow
        ),
        pytest.param("next(home.glob('*'))\n        " + SORTED, "'same'", "nothing", marks=pytest.mark.slow),
    ],
)
def test_another_process_and_nothing_to_train_on_are_asked_for_by_name(
    home: Path, tmp_path: Path, clips: str, fingerprint: str, caught: str | None
) -> None:
    (tmp_path / "own.py").write_text(PLUGIN.format(clips=clips, fingerprint=fingerprint))

    def check() -> None:
        data_source_conformance("own", {"path": str(home)}, plugins=[str(tmp_path / "own.py")])

    if caught is None:
        check()
        return
    with pytest.raises(ConformanceError, match="Own does not conform") as error:
        check()
    assert [*error.value.failures] == [caught]


class Rows(TokenSource):
    """Four sequences, one of them held out."""

    shape = TokenShape(3, 2, 4, 9)

    def fingerprint(self) -> Any:
        return "rows"

    def check(self) -> None:
        pass

    def __len__(self) -> int:
        return 3

    @property
    def held_out(self) -> range:
        return range(3, 4)

    def sequence(self, number: int) -> Any:
        codes = np.arange(number, number + 8).reshape(2, 4) % 9
        return np.array([0, 1, number]), np.array([False, True, True]), codes


def rows(**methods: Callable[..., Any]) -> TokenSource:
    made = {
        name: lambda self, *x, new=new, name=name: new(self, getattr(Rows, name), *x) for name, new in methods.items()
    }
    return type("BrokenRows", (Rows,), made)()


def changed(part: int, change: Callable[[Any], Any]) -> Callable[..., Any]:
    def sequence(self: Any, sequence: Any, number: int) -> Any:
        parts = [*sequence(self, number)]
        parts[part] = change(parts[part])
        return tuple(parts)

    return sequence


def wandering(self: Any, sequence: Any, number: int) -> Any:
    """As a reader that goes on from where it stands."""
    self.place = getattr(self, "place", -1) + 1
    return sequence(self, self.place % 4)


class Pid(Rows):
    def sequence(self, number: int) -> Any:
        import os

        text, there, codes = super().sequence(number)
        return text, there, (codes + os.getpid()) % 9


class HeldOut(Rows):
    held_out = range(2, 4)  # type: ignore[assignment]


def test_a_token_source_that_keeps_all_promises_passes() -> None:
    data_source_conformance(Rows())


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        (rows(check=lambda self, check: 1 / 0), "split"),
        (rows(__len__=lambda self, length: 0), "split"),
        (HeldOut(), "split"),
        (rows(sequence=changed(0, lambda text: text.astype(np.int32))), "shape"),
        (rows(sequence=changed(1, lambda there: there.astype(int))), "shape"),
        (rows(sequence=changed(2, lambda codes: codes.ravel())), "shape"),
        (rows(sequence=lambda self, sequence, number: sequence(self, number)[::2]), "shape"),
        (rows(sequence=changed(0, lambda text: text - 5)), "tokens"),
        (rows(sequence=changed(1, lambda there: there & False)), "tokens"),
        (rows(sequence=changed(2, lambda codes: codes + 1)), "tokens"),
        (rows(sequence=wandering), "same"),
        (Pid(), "workers"),
        (rows(fingerprint=lambda self, fingerprint: 5), "fingerprint"),
        (rows(fingerprint=lambda self, fingerprint: str(id(self))), "fingerprint"),
    ],
)
def test_a_broken_promise_of_a_token_source_is_named(source: TokenSource, caught: str) -> None:
    fails(source, caught)
