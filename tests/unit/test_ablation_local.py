"""Jobs as processes: how many at once, what is kept of each, why one failed, and that none outlives who started it.

The processes are real; in place of the command that they run is one of a few lines, so that they begin at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cogvid.ablation import process
from cogvid.ablation.jobs import Job
from cogvid.ablation.launcher import Standing
from cogvid.ablation.local import Local
from cogvid.compare.find import find_runs
from cogvid.compare.summary import compare
from cogvid.compare.trouble import last_words
from cogvid.pipeline.listing import write_listing

MakeJob = Callable[..., Job]
Until = Callable[..., Mapping[Job, Standing]]


def ended(standings: Mapping[Job, Standing]) -> bool:
    return all(standing.phase in ("finished", "failed") for standing in standings.values())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


CAUSES = {
    "killed": "SIGKILL: the process was killed, most likely because memory ran out",
    "refused": "UserError: tiny.yaml: no such key",
    "imports": "ModuleNotFoundError: No module named 'no_such_module' (exit code 1)",
    "says": "ValueError: out of range",
}


def test_a_process_that_fails_stops_no_other_and_its_cause_is_in_log_and_comparison(
    make_job: MakeJob, until: Until, tmp_path: Path
) -> None:
    jobs = {variant: make_job(variant) for variant in (*CAUSES, "fine")}
    for job in jobs.values():  # what an earlier attempt said is no cause
        job.folder.mkdir(parents=True)
        (job.folder / "log.txt").write_text("2026-01-01 09:00:00,000 ERROR ended by KeyError: 'long ago'\n")
    launcher = Local([{"OMP_NUM_THREADS": "1"}])
    for job in jobs.values():
        launcher.submit(job)
    standings = until(launcher, ended)
    assert {variant: standings[job].cause for variant, job in jobs.items()} == CAUSES | {"fine": ""}
    assert [standings[job].phase for job in jobs.values()] == ["failed"] * len(CAUSES) + ["finished"]
    for variant, cause in CAUSES.items():
        assert last_words(jobs[variant].folder / "log.txt") == cause
        assert (jobs[variant].folder / "log.txt").read_text().count("ended by") == 2
    # None of them came as far as saying what it is.
    (jobs["fine"].folder / "config.yaml").write_text("name: tiny\nvariant: fine\nseed: 0\n")
    write_listing(tmp_path / "runs/tiny", [*CAUSES, "fine", "later"], [0])
    said = {trouble.run: trouble.cause for trouble in compare(find_runs([tmp_path / "runs/tiny"])).troubles}
    for variant, cause in CAUSES.items():
        assert said[f"tiny/{variant}/0"].startswith(f"ended by {cause}")
    assert said["tiny/later/0"] == "missing: the experiment lists it, and it was not begun"


def test_what_a_process_says_goes_to_its_run_alone_behind_what_was_said_before(
    make_job: MakeJob, until: Until, capfd: pytest.CaptureFixture[str]
) -> None:
    for times in (1, 2):
        launcher, jobs = Local([{"OMP_NUM_THREADS": "7"}] * 2), [make_job("fine"), make_job("good")]
        for job in jobs:
            launcher.submit(job)
        until(launcher, ended)
        for job in jobs:
            assert (job.folder / "output.txt").read_text() == f"{job.variant} 7\nbeside\n" * times
    assert capfd.readouterr() == ("", "")


def test_as_many_run_at_once_as_there_are_shares(make_job: MakeJob, until: Until) -> None:
    launcher, jobs = Local([{"OMP_NUM_THREADS": "1"}] * 2), [make_job("waits", seed) for seed in range(3)]
    for job in jobs:
        launcher.submit(job)
    standings = until(launcher, lambda _: all((job.folder / "pid").exists() for job in jobs[:2]))
    assert [standings[job].phase for job in jobs] == ["running", "running", "queued"]
    assert standings[jobs[0]].owner.split()[0] == (jobs[0].folder / "pid").read_text()
    (jobs[1].folder / "go").touch()
    standings = until(launcher, lambda _: (jobs[2].folder / "pid").exists())
    assert [standings[job].phase for job in jobs] == ["running", "finished", "running"]
    launcher.cancel()


def test_cancelled_processes_end_in_an_orderly_way_and_those_that_do_not_are_killed(
    make_job: MakeJob, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, jobs = Local([{"OMP_NUM_THREADS": "1"}] * 2), [make_job("waits"), make_job("deaf"), make_job("fine")]
    for job in jobs:
        launcher.submit(job)
    until(launcher, lambda _: all((job.folder / "pid").exists() for job in jobs[:2]))
    monkeypatch.setattr(process, "GRACE", 0.5)
    launcher.cancel()
    assert (jobs[0].folder / "ended").exists()
    assert not any(alive(int((job.folder / "pid").read_text())) for job in jobs[:2])
    assert not jobs[2].folder.exists()


def test_processes_are_killed_with_the_one_that_started_them(make_job: MakeJob) -> None:
    job = make_job("waits")
    code = (
        "import time; from pathlib import Path; from cogvid.ablation.jobs import Job; "
        f"from cogvid.ablation.local import Local; import os; os.environ['PYTHONPATH'] = {os.environ['PYTHONPATH']!r}; "
        f"launcher = Local([{{'OMP_NUM_THREADS': '1'}}]); runs = Path({str(job.runs)!r}); "
        "launcher.submit(Job('tiny', (), 'waits', 0, runs, runs / 'tiny' / 'waits' / '0')); launcher.poll(); "
        "time.sleep(60)"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    starter = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path})
    end = time.monotonic() + 20
    while not (job.folder / "pid").exists() and time.monotonic() < end:
        time.sleep(0.01)
    pid = int((job.folder / "pid").read_text())
    assert alive(pid)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive(pid)
