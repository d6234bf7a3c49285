"""Stages: made once, held to what their work left, made again when something that decides them changes."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cogvid.errors import UserError
from cogvid.pipeline import stage as stage_module
from cogvid.pipeline.digests import named_files
from cogvid.pipeline.stage import LOCK, FinishedStages, StageResult, StageStore, Unfinished


def make(runs: Path, depends: dict[str, object] | None = None, *, wait: bool = True) -> StageResult:
    """A stage of two files, one in a folder."""

    def work(folder: Path) -> dict[str, object]:
        (folder / "clips").mkdir(exist_ok=True)
        (folder / "clips" / "a.mp4").write_bytes(b"video")
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "history.jsonl").write_text("")
        return {"steps": 3}

    return StageStore(runs, wait).finish("sequential", depends or {"steps": 3}, work)


def test_a_stage_says_what_its_work_left_and_where_it_was_made(tmp_path: Path) -> None:
    info = make(tmp_path).info
    assert set(info["outputs"]) == {"clips/a.mp4", "model.safetensors"}
    assert all(len(digest) == 64 for digest in info["outputs"].values())
    assert info["environment"]["packages"]["torch"] == torch.__version__
    assert "cogvid/model/transformer.py" in info["depends"]["sources"]


def test_a_finished_stage_is_taken_as_it_is(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = (first.folder / "stage.json").stat().st_mtime_ns
    assert make(tmp_path).key == first.key
    assert (first.folder / "stage.json").stat().st_mtime_ns == before


def test_whoever_looks_is_told_of_a_stage_that_is_made_and_of_no_finished_one(tmp_path: Path) -> None:
    begun: list[tuple[str, bool]] = []
    store = StageStore(tmp_path, begins=lambda name, folder: begun.append((name, folder.exists())))
    for _ in range(2):
        store.finish("sequential", {"steps": 3}, lambda folder: {"steps": 3})
    assert begun == [("sequential", False)]


def test_what_a_stage_trained_is_gone_when_it_is_finished(tmp_path: Path) -> None:
    class Model:
        def __init__(self) -> None:
            self.trainer = self  # models and their trainers name each other

    models: list[weakref.ref[Model]] = []

    def work(folder: Path) -> dict[str, object]:
        models.append(weakref.ref(Model()))
        return {}

    gc.disable()
    try:
        StageStore(tmp_path).finish("sequential", {}, work, together=True)
        assert models[0]() is None
    finally:
        gc.enable()


def train(runs: Path) -> StageResult:
    """A stage that goes on at the step of its checkpoint."""

    def work(folder: Path) -> dict[str, object]:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "frames.npy").write_bytes(b"frames")
        step = folder / "checkpoints" / "step"
        began = int(step.read_text()) if step.exists() else 0
        step.write_text("3")
        (folder / "model.safetensors").write_bytes(b"weights")
        return {"began": began}

    return StageStore(runs).finish("sequential", {}, work, scratch=("checkpoints", "frames*"))


def killed_at(monkeypatch: pytest.MonkeyPatch, name: str, runs: Path) -> None:
    """Kill `train` where the store calls one of its functions."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, name, killed)
        with pytest.raises(KeyboardInterrupt):
            train(runs)


def test_what_a_work_goes_on_with_stays_until_the_stage_is_said_to_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, "write_json", tmp_path)
    result = train(tmp_path)
    assert result.info["began"] == 3
    assert {path.name for path in result.folder.iterdir()} == {LOCK, "stage.json", "model.safetensors"}
    assert set(result.info["outputs"]) == {"model.safetensors"}


def test_what_a_kill_left_of_a_finished_work_goes_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(monkeypatch, "_clear", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / "checkpoints").exists()
    with (folder / LOCK).open() as file:  # its owner may be at it
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train(tmp_path).info["began"] == 0
        assert (folder / "checkpoints").exists()
    assert train(tmp_path).info["began"] == 0
    assert {path.name for path in folder.iterdir()} == {LOCK, "stage.json", "model.safetensors"}


def test_stages_that_are_not_to_be_made_are_taken_or_said_to_be_missing(tmp_path: Path) -> None:
    def work(folder: Path) -> dict[str, object]:
        raise AssertionError(folder)

    with pytest.raises(Unfinished, match="sequential"):
        FinishedStages(tmp_path).finish("sequential", {"steps": 3}, work)
    assert not list(tmp_path.iterdir())
    key = make(tmp_path).key
    assert FinishedStages(tmp_path).finish("sequential", {"steps": 3}, work).key == key


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: flip(folder / "model.safetensors"), "model.safetensors is not the file that the stage left"),
        (lambda folder: (folder / "clips/a.mp4").write_bytes(b"vid"), "a.mp4 is not the file"),
        (lambda folder: (folder / "clips/a.mp4").unlink(), "a.mp4 is missing"),
        (lambda folder: (folder / "stage.json").write_text('{"name": "sequ'), "stage.json is damaged"),
        (lambda folder: (folder / "stage.json").write_text("[]"), "stage.json is damaged"),
        (lambda folder: (folder / "stage.json").write_bytes(b"\xff\xfe"), "stage.json is damaged"),
        (lambda folder: (folder / "stage.json").write_text('{"name": "tokens", "key": "a"}'), "another stage, tokens"),
        (lambda folder: (folder / "stage.json").write_text('{"name": "sequential", "key": "a"}'), "another stage, a"),
    ],
)
def test_damage_is_found_and_the_message_says_what_to_remove(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    folder = make(tmp_path).folder
    damage(folder)
    with pytest.raises(UserError, match=words) as error:
        make(tmp_path)
    assert f"Remove the folder {folder}" in str(error.value)


def test_models_that_change_places_are_found(tmp_path: Path) -> None:
    one, other = make(tmp_path).folder, make(tmp_path, {"steps": 4}).folder
    for stage in (one, other):
        (stage / "model.safetensors").rename(stage / "moved")
    (one / "moved").rename(other / "model.safetensors")
    (other / "moved").rename(one / "model.safetensors")
    make(tmp_path)  # these two hold the same
    flip(other / "model.safetensors")
    with pytest.raises(UserError, match="SHA-256"):
        make(tmp_path, {"steps": 4})


def test_a_file_is_read_once_as_long_as_it_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was read again"))
    make(tmp_path)


def test_a_stage_says_which_file_made_it_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage_module.log, "info", lambda message, *values: said.append(message % values))
    plugin = {"name": "mine", "sources": {"mine.py": "1", "helper.py": "1"}}
    first = make(tmp_path, {"attention": plugin})
    assert not said
    plugin = {**plugin, "sources": {"mine.py": "1", "helper.py": "2"}}
    make(tmp_path, {"attention": plugin})
    assert said == ["sequential: made again, because helper.py changed"]
    code = {**stage_module.stage_code("sequential"), "cogvid/model/rotary.py": "edited"}
    monkeypatch.setattr(stage_module, "stage_code", lambda stage: code)
    assert make(tmp_path, {"attention": plugin}).key != first.key
    assert said[1:] == ["sequential: made again, because cogvid/model/rotary.py changed"]
    make(tmp_path, {"attention": {**plugin, "name": "another"}})
    assert len(said) == 2


def test_files_that_options_name_count_by_content(tmp_path: Path) -> None:
    weights = tmp_path / "i3d.pt"
    weights.write_bytes(b"one")
    options = {"extractor": "i3d", "path": str(weights), "more": [{"path": str(weights)}], "folder": str(tmp_path)}
    one = named_files(options)
    assert set(one) == {str(weights)}
    weights.write_bytes(b"two, longer")
    assert named_files(options) != one


def test_what_a_killed_process_half_wrote_is_cleared_and_the_rest_is_gone_on_with(tmp_path: Path) -> None:
    store, left = StageStore(tmp_path), []

    def killed(folder: Path) -> dict[str, object]:
        (folder / "done.mp4").write_bytes(b"1")
        (folder / ".half.mp4.partial").write_bytes(b"1")
        raise KeyboardInterrupt

    def work(folder: Path) -> dict[str, object]:
        left.extend(path.name for path in folder.iterdir())
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.finish("data", {}, killed)
    stage = store.finish("data", {}, work)
    assert set(left) == {"done.mp4", LOCK}
    assert stage.info["resumed"]


@contextmanager
def locked(folder: Path, owner: str = "123 elsewhere") -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        file.write(owner)
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unfinished(tmp_path: Path) -> Path:
    """The folder of a stage that is not made yet."""
    folder = make(tmp_path).folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    return folder


def test_no_wait_refuses_and_says_who_is_at_work(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    with locked(folder), pytest.raises(UserError, match=r"another cogvid process \(123 on elsewhere\).*--no-wait"):
        make(tmp_path, wait=False)


def test_a_process_does_not_wait_for_the_one_that_started_it(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    with locked(folder, f"{os.getppid()} here"), pytest.raises(UserError, match="another cogvid process"):
        make(tmp_path)


def test_who_waits_takes_what_the_other_process_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(tmp_path)
    done = {"name": "sequential", "key": folder.name.removeprefix("sequential-"), "outputs": {}, "made": "elsewhere"}
    said = threading.Event()
    monkeypatch.setattr(stage_module.log, "warning", lambda *words: said.set())
    stages: list[StageResult] = []
    with locked(folder):
        waiting = threading.Thread(target=lambda: stages.append(make(tmp_path)))
        waiting.start()
        assert said.wait(10)
        (folder / "stage.json").write_text(json.dumps(done))
    waiting.join(10)
    assert stages[0].info["made"] == "elsewhere"


def test_who_waits_for_a_folder_that_is_removed_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(tmp_path)
    said = threading.Event()
    monkeypatch.setattr(stage_module.log, "warning", lambda *words: said.set())
    stages: list[StageResult] = []
    with locked(folder):
        waiting = threading.Thread(target=lambda: stages.append(make(tmp_path)))
        waiting.start()
        assert said.wait(10)
        (folder / LOCK).unlink()
        folder.rmdir()
    waiting.join(10)
    assert stages[0].info["outputs"]


def test_parts_work_side_by_side_and_keep_out_their_like_and_the_whole(tmp_path: Path) -> None:
    store, done = StageStore(tmp_path, wait=False), []

    def whole(folder: Path) -> dict[str, object]:
        (folder / "left").write_text(" ".join(done))
        return {}

    def first(folder: Path) -> None:
        store.part("tokens", {}, "2-of-2", lambda _: done.append("second"))
        done.append("first")
        for again in (
            lambda: store.part("tokens", {}, "1-of-2", lambda _: done.append("again")),
            lambda: store.finish("tokens", {}, whole),
        ):
            with pytest.raises(UserError, match="being worked on by another cogvid process"):
                again()

    folder = store.part("tokens", {}, "1-of-2", first)
    assert sorted(path.name for path in folder.iterdir()) == [LOCK, ".part-1-of-2.lock", ".part-2-of-2.lock"]
    assert store.finish("tokens", {}, whole).folder == folder
    assert (folder / "left").read_text() == "second first"
    store.part("tokens", {}, "1-of-2", lambda _: done.append("late"))
    assert done == ["second", "first"]
    assert sorted(path.name for path in folder.iterdir()) == [LOCK, "left", "stage.json"]
