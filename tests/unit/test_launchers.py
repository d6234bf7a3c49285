"""What commands are told about launchers, what jobs of a cluster leave for others to see, and what is refused."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid.ablation import process
from cogvid.ablation.jobs import Job
from cogvid.ablation.launcher import Standing
from cogvid.ablation.needs import Needs
from cogvid.ablation.parts import TokenPart
from cogvid.ablation.ray import Preempted, do
from cogvid.ablation.remote import Remote, forget_note, read_note
from cogvid.ablation.state import State, read_state
from cogvid.cli import app
from cogvid.cli.launchers import LauncherName, make_launcher
from cogvid.config.schema import TrainerConfig
from cogvid.errors import UserError
from cogvid.pipeline.run_state import RunState, write_run_state

EXPERIMENT = "base: [quickstart]\nvariants: {one: {}, two: {attention: naive}}\n"
SLURM, RAY = ("--launcher", "slurm"), ("--launcher", "ray")
OPTIONS = "--launcher-options"


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """What a command says that is refused before anything is written."""
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)

    def run(*words: str) -> str:
        runs = tmp_path / "runs"
        result = CliRunner().invoke(app, [*words, "--runs", str(runs)], env={"COLUMNS": "1000"})
        assert result.exit_code == 1, result.output
        assert not runs.exists()
        return " ".join(result.output.split())

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*SLURM, OPTIONS, "partitoin=gpu"),
            "options.partitoin: launcher slurm has no such option. Did you mean 'part",
        ),
        (
            (*SLURM, OPTIONS, "partition=gpu,hours=0"),
            f"{OPTIONS}: options.hours: this option of launcher slurm must be",
        ),
        ((*SLURM, OPTIONS, "cluster=moon"), "must be 'slurm' or 'local', got 'moon'"),
        ((*SLURM, OPTIONS, "gpu"), f"{OPTIONS}: 'gpu' is not key=value"),
        ((*SLURM, OPTIONS, "cpus=many"), "options.cpus: wrong value for launcher slurm"),
        ((*RAY, OPTIONS, "partition=gpu"), "options.partition: launcher ray has no such option. Known: address, cpus,"),
        ((*RAY, OPTIONS, "retries=-2"), "options.retries: this option of launcher ray must be from -1 to 1000"),
        ((OPTIONS, "cpus=2"), "options.cpus: launcher local has no such option. Known: none."),
        ((*SLURM, "--jobs", "2"), "--jobs is for this machine: with --launcher slurm the cluster says how many"),
        ((*RAY, "--no-wait"), "--no-wait: jobs side by side wait"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_what_a_launcher_cannot_do_is_refused_by_name(
    refused: Callable[..., str], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    assert message in refused("ablate", str(tmp_path / "tiny.yaml"), *words)
    assert message in refused("data", "tokenize", str(tmp_path / "tiny.yaml"), "--parts", "2", *words)


@pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_says_what_installs_it(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    said = refused("ablate", str(tmp_path / "tiny.yaml"), "--launcher", name)
    assert "which is not installed: pip install" in said
    assert f'"cogvid[{name}]" does it' in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "2", "--part", "1/2"], "give no --part or --merge"),
        (["--parts", "2", "--merge"], "give no --part or --merge"),
        ([*SLURM], "give --parts, too"),
        (["--jobs", "2"], "give --parts, too"),
        (["--parts", "2", "--no-wait"], "--no-wait: jobs side by side wait"),
    ],
    ids=str,
)
def test_words_about_parts_that_do_not_go_together_are_refused(
    refused: Callable[..., str], tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refused("data", "tokenize", str(tmp_path / "tiny.yaml"), *words)


def test_launchers_are_not_imported_before_they_are_wanted() -> None:
    code = (
        "import sys, cogvid.ablation.slurm, cogvid.ablation.ray; print({'torch', 'ray', 'submitit'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_processes_of_a_job_share_its_cpus() -> None:
    assert (Needs(2, 3).cpus, Needs().cpus) == (6, 1)
    assert Needs(2, 3).environment(8) == {"OMP_NUM_THREADS": "4"}
    assert Needs(2, 3).environment(1) == {"OMP_NUM_THREADS": "1"}


def test_on_this_machine_jobs_share_what_it_has(tmp_path: Path) -> None:
    launcher = make_launcher(LauncherName.local, None, 2, [TrainerConfig(accelerator="cpu")], tmp_path)
    assert launcher.poll() == {}


def test_the_command_of_a_part_says_all_that_makes_it() -> None:
    part = TokenPart("my.yaml", ("seed=3",), "all", "2/5", Path("there"), Path("there/parts/my/all/3/2-of-5"))
    words = "data tokenize my.yaml seed=3 --variant all --runs there --part 2/5"
    assert part.command == words.split()
    assert (part.title, part.cells) == ("part 2/5", {"part": "2/5"})


def begun(job: Job, work: Callable[[], Standing]) -> tuple[Future[Standing], int]:
    """Work on a job that waits, and the job's process, which has begun."""
    pool = ThreadPoolExecutor(1)
    doing = pool.submit(work)
    pool.shutdown(wait=False)
    end = time.monotonic() + 20
    while not (job.folder / "pid").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return doing, int((job.folder / "pid").read_text())


def test_a_remote_job_notes_its_process_and_how_it_ended(make_job: Callable[..., Job]) -> None:
    job = make_job("waits")
    doing, pid = begun(job, Remote.of(job, {"OMP_NUM_THREADS": "1"}))
    assert read_note(job.folder) == Standing("running", f"{pid} {platform.node()}")
    (job.folder / "go").touch()
    assert doing.result(20) == Standing("finished") == read_note(job.folder)
    forget_note(job.folder)
    assert read_note(job.folder) == Standing("queued")


def test_a_task_of_ray_whose_job_was_asked_to_end_is_to_begin_again(make_job: Callable[..., Job]) -> None:
    job = make_job("waits")
    remote = Remote.of(job, {"OMP_NUM_THREADS": "1"})
    doing, pid = begun(job, lambda: do(remote))
    os.kill(pid, signal.SIGTERM)
    with pytest.raises(Preempted):
        doing.result(20)


def test_a_remote_job_that_fails_notes_why(make_job: Callable[..., Job]) -> None:
    job = make_job("refused")
    remote = Remote.of(job, {"OMP_NUM_THREADS": "1"})
    assert remote() == Standing("failed", cause="UserError: tiny.yaml: no such key") == read_note(job.folder)


def test_what_ends_the_one_that_does_a_remote_job_ends_the_job(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, looks = make_job("waits"), process.Process.wait

    def interrupted(one: process.Process, seconds: float) -> None:
        if not (job.folder / "pid").exists() or (job.folder / "ended").exists():
            return looks(one, seconds)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(process.Process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Remote.of(job, {"OMP_NUM_THREADS": "1"})()
    assert (job.folder / "ended").exists()
    assert read_note(job.folder) == Standing("queued")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose last process was on another machine."""
    (tmp_path / ".lock").write_text("7 elsewhere")
    write_run_state(tmp_path, RunState("sequential", str(tmp_path / "stage"), 6))
    return tmp_path


def test_a_run_on_another_machine_is_seen_as_one_here(run: Path) -> None:
    assert read_state(run, "7 elsewhere", {}) == State("running", "", "sequential", steps=6)


def test_a_process_of_another_machine_is_waited_for_as_long_as_it_holds_the_lock(run: Path) -> None:
    owner = f"{os.getpid()} {platform.node()}"
    assert read_state(run, owner, {}) == State("starting")
    with (run / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        note = "waiting for another cogvid process (7 on elsewhere)"
        assert read_state(run, owner, {}) == State("waiting", note)


def test_a_process_of_this_machine_that_is_gone_is_not_running(run: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (run / ".lock").write_text(owner := f"{ended.pid} {platform.node()}")
    assert read_state(run, owner, {}) == State("starting")


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"The launcher slurm finds no SLURM here: .*such as on a login node"):
        make_launcher(LauncherName.slurm, None, None, [TrainerConfig()], tmp_path)
