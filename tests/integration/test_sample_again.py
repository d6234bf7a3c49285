"""`cogvid sample` where there are clips: it keeps what is there, makes what is missing, goes on after being killed."""

from __future__ import annotations

import fcntl
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cogvid.generation import clips as clips_module
from helpers import cogvid, contents, refused, sample

RED, BLUE = "a small red circle moves left", "a large blue square stands still"


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: object, **__: object) -> None:
        pytest.fail("a clip was generated again")

    monkeypatch.setattr(clips_module, "generate_tokens", generate)


def test_the_same_command_again_changes_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [run, RED, BLUE, "--out", tmp_path]
    sample(*command)
    before = times(tmp_path)
    no_generation(monkeypatch)
    sample(*command)
    assert times(tmp_path) == before


def test_lost_videos_and_wanted_gifs_are_made_from_the_tokens(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(run, RED, "--gif", "--out", tmp_path)
    before = contents(tmp_path)
    for path in [*tmp_path.glob("*.mp4"), *tmp_path.glob("*.gif"), *tmp_path.glob("*.png")]:
        path.unlink()
    no_generation(monkeypatch)
    sample(run, RED, "--gif", "--out", tmp_path)
    assert contents(tmp_path) == before


def test_another_clip_of_the_same_name_is_refused_and_kept(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--frames", "9", "--out", tmp_path)
    before = contents(tmp_path)
    again = cogvid("sample", run, BLUE, RED, "--frames", "17", "--out", tmp_path)
    refused(again, "a_small_red_circle_moves_left-0-0.json holds another clip", "frames 9 there, 17 now", "--seed")
    assert contents(tmp_path) == before
    sample(run, RED, "--frames", "17", "--seed", "1", "--out", tmp_path)
    assert contents(tmp_path).items() > before.items()


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".safetensors"])
def test_a_foreign_file_is_refused_and_kept(run: Path, tmp_path: Path, suffix: str) -> None:
    foreign = tmp_path / f"a_small_red_circle_moves_left-0-0{suffix}"
    foreign.write_bytes(b"mine")
    refused(cogvid("sample", run, BLUE, RED, "--out", tmp_path), foreign.name, "another clip", "--out")
    assert contents(tmp_path) == {foreign.name: b"mine"}


def test_a_clip_that_another_process_makes_is_left_to_it_on_request(run: Path, tmp_path: Path) -> None:
    sample(run, RED, "--out", tmp_path, "--no-sheet")
    (video,) = tmp_path.glob("*.mp4")
    video.unlink()
    with video.with_suffix(".json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(cogvid("sample", run, RED, "--out", tmp_path, "--no-sheet", "--no-wait"), "another cogvid process")
    sample(run, RED, "--out", tmp_path, "--no-sheet")
    assert video.exists()


# Ends itself as kill -9 would, just before a file with this ending gets its name.
SUICIDE = """
import os, pathlib, signal, sys
ending, replace = sys.argv.pop(1), pathlib.Path.replace
def until(path, target):
    if str(target).endswith(ending):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)
pathlib.Path.replace = until
from cogvid.cli import main
main()
"""


MANY = [RED, BLUE, "--count", "2", "--batch", "2", "--gif"]


@pytest.fixture(scope="module")
def uninterrupted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted command writes."""
    out = tmp_path_factory.mktemp("uninterrupted")
    sample(run, *MANY, "--out", out)
    return contents(out)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_command_killed_again_and_again_ends_with_the_files_of_an_uninterrupted_one(
    run: Path, tmp_path: Path, uninterrupted: dict[str, bytes], fork: Callable[..., Any]
) -> None:
    kills = 0
    while True:
        before = times(tmp_path)
        named = len(names(tmp_path))
        process = fork("sample", run, *MANY, "--out", tmp_path)
        # At other moments each time: after one, two, three more files, right away or a little later.
        while process.poll() is None and len(names(tmp_path)) <= named + kills % 3:
            time.sleep(0.002)
        time.sleep(0.01 * (kills % 4))
        process.kill()
        process.wait(100)
        assert {name: before[name] for name in before if not name.startswith(".")}.items() <= times(tmp_path).items()
        now = contents(tmp_path)
        assert all(now[name] == uninterrupted[name] for name in names(tmp_path))
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert contents(tmp_path) == uninterrupted


def names(folder: Path) -> set[str]:
    """Of the files that are complete."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("ending", [".json", ".safetensors", ".mp4", ".gif", ".png"])
def test_a_command_killed_before_a_file_gets_its_name_leaves_none_of_it_and_goes_on(
    run: Path, tmp_path: Path, uninterrupted: dict[str, bytes], fork: Callable[..., Any], ending: str
) -> None:
    killed = fork(ending, "sample", run, *MANY, "--out", tmp_path, code=SUICIDE)
    assert killed.wait(100) == -signal.SIGKILL, killed.communicate()
    assert not list(tmp_path.glob(f"*{ending}"))
    now = contents(tmp_path)
    assert all(now[name] == uninterrupted[name] for name in names(tmp_path))
    sample(run, *MANY, "--out", tmp_path)
    assert contents(tmp_path) == uninterrupted
