"""Jobs of an ablation: their order, their shares of a machine, what they are at, and how it is shown."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cogvid.ablation.jobs import Job, in_order, shares, threads_wanted
from cogvid.ablation.launcher import Standing
from cogvid.ablation.state import State, Watch, read_state
from cogvid.ablation.table import Shown
from cogvid.pipeline.run_state import RunState, read_run_state, write_run_state

HOST = platform.node()
ME, OTHER = f"{os.getpid()} {HOST}", f"{os.getppid()} {HOST}"


def job(runs: Path, variant: str = "local", seed: int = 0) -> Job:
    return Job("tiny", (), variant, seed, runs, runs / "tiny" / variant / str(seed))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that this process is at."""
    folder = job(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / ".lock").write_text(ME)
    return folder


def begin(run: Path, stage: str, steps: int = 0, owner: str = ME) -> Path:
    """A stage of a run, with who is at work on it."""
    folder = run.parents[2] / "stages" / f"{stage}-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").write_text(owner)
    write_run_state(run, RunState(stage, str(folder), steps))
    return folder


def log(stage: Path, *entries: dict[str, float], seconds: float = 0) -> None:
    path = stage / "history.jsonl"
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)
    os.utime(path, (seconds, seconds))


def test_the_room_needs_no_torch() -> None:
    code = "import sys, cogvid.ablation.follow, cogvid.ablation.local; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_command_of_a_job_says_all_that_makes_it() -> None:
    one = Job("my.yaml", ("model.layers=2", "seeds=[0,3]"), "all", 3, Path("there"), Path("there/my/all/3"), wait=False)
    words = "run my.yaml model.layers=2 seeds=[0,3] seed=3 --variant all --runs there --no-wait"
    assert one.command == words.split()
    assert "--no-wait" not in job(Path("runs")).command


def test_jobs_that_run_at_once_are_of_different_seeds() -> None:
    side_by_side = in_order(["a", "b", "c"], [0, 1], 2)
    assert [{seed for _, seed in side_by_side[n : n + 2]} for n in (0, 2, 4)] == [{0, 1}] * 3
    assert in_order(["a", "b"], [1, 0], 1) == [("a", 1), ("b", 1), ("a", 0), ("b", 0)]
    assert sorted(side_by_side) == sorted(in_order(["a", "b", "c"], [0, 1], 1))


@pytest.mark.parametrize(
    ("at_once", "processes", "cores", "most", "threads"),
    [
        (2, 1, 2, None, 1),
        (2, 1, 16, None, 8),
        (2, 3, 16, None, 2),
        (4, 2, 4, None, 1),
        (1, 1, 8, 3, 3),
        (2, 1, 8, 9, 4),
    ],
)
def test_threads_are_shared_out_and_each_process_has_one(
    at_once: int, processes: int, cores: int, most: int | None, threads: int
) -> None:
    assert shares(at_once, processes, cores, most=most) == [{"OMP_NUM_THREADS": str(threads)}] * at_once


def test_gpus_are_dealt_out_in_turn() -> None:
    def dealt(at_once: int, processes: int, *gpus: str) -> list[str]:
        return [share["CUDA_VISIBLE_DEVICES"] for share in shares(at_once, processes, 8, gpus)]

    assert dealt(2, 1, "0", "1") == ["0", "1"]
    assert dealt(2, 2, "4", "5", "6", "7") == ["4,5", "6,7"]
    assert dealt(3, 1, "0", "1") == ["0", "1", "0"]


def test_threads_of_the_environment_are_the_most() -> None:
    assert [threads_wanted({"OMP_NUM_THREADS": said}) for said in ("3", "0", "", "4,2")] == [3, None, None, None]
    assert threads_wanted({}) is None


def test_a_run_is_starting_until_its_process_has_its_folder(tmp_path: Path) -> None:
    folder = job(tmp_path).folder
    assert read_state(folder, ME, {}).phase == "starting"
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (folder / ".lock").write_text(f"{ended.pid} {HOST}")  # an earlier attempt
    begin(folder, "sequential", 600, f"{ended.pid} {HOST}")
    assert read_state(folder, ME, {}) == State("starting")


def test_a_run_that_another_terminal_is_at_says_whom_it_waits_for(run: Path) -> None:
    (run / ".lock").write_text(OTHER)
    note = f"waiting for another cogvid process ({os.getppid()} on {HOST})"
    assert read_state(run, ME, {}) == State("waiting", note)


def test_a_run_that_waits_for_a_shared_stage_says_whose_it_is(run: Path) -> None:
    begin(run, "image_base", 6, OTHER)
    assert read_state(run, ME, {OTHER: "all, seed 0"}) == State("waiting", "waiting for all, seed 0", "image_base")
    begin(run, "image_base", 6)
    assert read_state(run, ME, {OTHER: "all, seed 0"}) == State("running", "", "image_base", steps=6)


def test_a_run_in_training_says_its_newest_step_and_losses(run: Path) -> None:
    stage = begin(run, "sequential", 600)
    log(stage, {"step": 20, "loss": 5.0, "held_out": 5.5}, {"step": 40, "loss": 4.5}, seconds=100)
    with (stage / "history.jsonl").open("a") as file:
        file.write('{"step": 60, "lo')  # it is being written
    os.utime(stage / "history.jsonl", (100, 100))
    assert read_state(run, ME, {}) == State("running", "", "sequential", 40, 600, 4.5, 5.5, 100)


def test_a_long_history_is_read_from_its_end(run: Path) -> None:
    stage = begin(run, "sequential", 10_000)
    log(stage, *({"step": step, "loss": 1.0 / step, "held_out": 2.0 / step} for step in range(1, 10_000)))
    state = read_state(run, ME, {})
    assert (state.step, state.loss, state.held_out) == (9999, 1.0 / 9999, 2.0 / 9999)


def test_a_stage_without_steps_and_a_damaged_state_are_no_error(run: Path) -> None:
    begin(run, "samples")
    assert read_state(run, ME, {}) == State("running", "", "samples")
    (run / "state.json").write_text('{"stage": "sam')
    assert read_state(run, ME, {}) == State("starting")
    assert read_run_state(run) == RunState()


def test_the_time_left_is_that_of_the_steps_seen(tmp_path: Path, run: Path) -> None:
    watch, one = Watch(), job(tmp_path)
    standing = {one: Standing("running", ME)}
    stage = begin(run, "sequential", 100)
    log(stage, {"step": 10, "loss": 5.0}, seconds=1000)
    assert watch.states(standing)[one].left is None
    log(stage, {"step": 30, "loss": 5.0}, seconds=1040)
    assert watch.states(standing)[one].left == 2 * 70
    stage = begin(run, "interpolation", 100)
    log(stage, {"step": 50, "loss": 5.0}, seconds=2000)
    assert watch.states(standing)[one].left is None
    log(stage, {"step": 60, "loss": 5.0}, seconds=2010)
    assert watch.states(standing)[one].left == 40
    assert watch.states({one: Standing("failed", cause="ValueError: no")})[one] == State("failed", "ValueError: no")


STATES = (
    State("running", "", "sequential", 1200, 6000, 2.34567, 2.5, 0, 3725),
    State("waiting", "waiting for local, seed 0", "image_base"),
    State("failed", "RuntimeError: [out] of ideas"),
    State("finished"),
    State("queued"),
)


def shown(*states: tuple[State, ...], terminal: bool) -> list[str]:
    """The lines that a console has in the end, without colours."""
    console = Console(width=150, record=True, force_terminal=terminal, file=io.StringIO())
    jobs = [job(Path("runs"), variant) for variant in ("local", "all", "bad", "good", "last")]
    with Shown(console, jobs) as shown:
        for each in states:
            shown.show(dict(zip(jobs, each, strict=True)))
    return [line.rstrip() for line in console.export_text().splitlines() if line.strip()]


def test_the_table_says_what_every_job_is_at() -> None:
    rows = {line.split()[0]: " ".join(line.split()) for line in shown(STATES, terminal=True)}
    assert rows == {
        "variant": "variant seed stage step loss held-out loss time left",
        "local": "local 0 sequential 1200/6000 2.3457 2.5000 1:02:05 running",
        "all": "all 0 image_base waiting for local, seed 0",
        "bad": "bad 0 failed: RuntimeError: [out] of ideas",
        "good": "good 0 finished",
        "last": "last 0 queued",
    }


def test_without_a_terminal_a_line_is_written_for_each_change_and_for_no_step() -> None:
    later = (State("running", "", "sequential", 1400, 6000, 2.2), *STATES[1:4], State("starting"))
    assert shown(STATES, later, later, terminal=False) == [
        "local, seed 0: sequential, 6000 steps",
        "all, seed 0: image_base: waiting for local, seed 0",
        "bad, seed 0: failed: RuntimeError: [out] of ideas",
        "good, seed 0: finished",
        "last, seed 0: queued",
        "last, seed 0: starting",
    ]
