"""Jobs of SLURM: how they end, that they go on after an interruption, and that a second command finds them.

submitit and the jobs are real; of SLURM there are commands of a few lines that start the scripts here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cogvid.ablation import slurm
from cogvid.ablation.jobs import Job
from cogvid.ablation.launcher import Standing
from cogvid.ablation.needs import Needs
from cogvid.ablation.slurm import Slurm, SlurmOptions
from cogvid.compare.trouble import last_words
from cogvid.errors import UserError

pytest.importorskip("submitit", reason="needs submitit, which cogvid[slurm] installs")

MakeJob, Launch = Callable[..., Job], Callable[..., Slurm]
Until = Callable[..., Mapping[Job, Standing]]
COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")
# A folder has for each job: N.script, N.pids, of its session, N.state where it is not what the processes tell.
CLUSTER = r"""#!PYTHON
import os, signal, subprocess, sys
from pathlib import Path

place, name, words = Path(__file__).parent / "jobs", Path(sys.argv[0]).name, sys.argv[1:]

def start(script, environment=None):
    words = ["bash", "-c", script]
    subprocess.Popen(words, env=environment, stdout=-3, stderr=-3, start_new_session=True)

def begin(number):
    job = place / number
    # Not before the attempt before it is over.
    before = f"for group in $(cat {job}.pids); do while kill -0 -- -$group; do sleep 0.05; done; done"
    own = f"echo $$ > {job}.pids; rm -f {job}.state {job}.code; bash {job}.script; echo $? > {job}.code"
    start(f"{before}; {own}", os.environ | {"SLURM_JOB_ID": number})

def state(number):
    said = place / f"{number}.state"
    if said.exists():
        return said.read_text()
    code = place / f"{number}.code"
    return ("COMPLETED" if code.read_text().strip() == "0" else "FAILED") if code.exists() else "RUNNING"

if name == "sbatch":
    script = Path(words[0]).read_text()
    if "--partition=moon" in script:
        sys.exit("sbatch: error: invalid partition specified: moon")
    number = str(len(list(place.glob("*.script"))) + 1)
    (place / f"{number}.script").write_text(script)
    begin(number)
    print(f"Submitted batch job {number}")
elif name == "srun":
    for option, number in (("--output", 1), ("--error", 2)):
        path = words[words.index(option) + 1].replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    command = words[words.index("-u") - 1 :]
    os.execvpe(command[0], command, os.environ | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
elif name == "sacct":
    print("JobID|State|NodeList")
    for option, number in zip(words, words[1:]):
        if option == "-j":
            print(f"{number}|{state(number)}|here")
elif name == "scancel":
    (place / f"{words[0]}.state").write_text("CANCELLED by 0")
    # SIGTERM to all processes of the job, and SIGKILL a little later, as SLURM's KillWait has it.
    group = (place / f"{words[0]}.pids").read_text().strip()
    start(f"kill -TERM -- -{group}; sleep 1; kill -KILL -- -{group}")
elif name == "scontrol":
    (place / f"{words[1]}.state").write_text("REQUEUED")
    begin(words[1])
    # What was in the middle of a step is lost: this waits for nobody.
    os.killpg(int((place / f"{words[1]}.pids").read_text()), signal.SIGKILL)
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the jobs of a cluster of this machine."""
    place = tmp_path / "cluster"
    (place / "jobs").mkdir(parents=True)
    for name in COMMANDS:
        (place / name).write_text(CLUSTER.replace("PYTHON", sys.executable))
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_LAG", 0)
    yield place / "jobs"
    for path in (place / "jobs").glob("*.pids"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture
def launch(tmp_path: Path, cluster: Path) -> Callable[..., Slurm]:
    """Makes a launcher that has submitted some jobs."""

    def make(*jobs: Job, **options: str) -> Slurm:
        launcher = Slurm(SlurmOptions(**options), Needs(), tmp_path / "runs")  # type: ignore[arg-type]
        for job in jobs:
            launcher.submit(job)
        return launcher

    return make


def scripts(cluster: Path) -> int:
    """How many jobs have been submitted."""
    return len(list(cluster.glob("*.script")))


def wait_for(path: Path, text: str = "") -> str:
    """What a file says, once it is there and says something else than before."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and (said := path.read_text()) not in ("", text):
            return said
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")


def ended(standings: Mapping[Job, Standing]) -> bool:
    return all(standing.ended for standing in standings.values())


def test_jobs_end_as_they_do_here_and_say_what_was_asked_for(
    make_job: MakeJob,
    launch: Launch,
    until: Until,
    cluster: Path,
) -> None:
    fine, bad = make_job("fine"), make_job("refused", 1)
    standings = until(launch(fine, bad, partition="gpu", memory=1.5), ended)
    cause = "UserError: tiny.yaml: no such key"
    assert standings == {fine: Standing("finished"), bad: Standing("failed", cause=cause)}
    assert last_words(bad.folder / "log.txt") == cause
    assert (fine.folder / "output.txt").read_text() == "fine 1\nbeside\n"
    script = (cluster / "2.script").read_text()
    asked = ("partition=gpu", "time=240", "mem=1536MB", "cpus-per-task=1", "job-name=cogvid-refused-seed-1")
    assert all(f"#SBATCH --{words}\n" in script for words in asked)
    assert "gpus" not in script


def test_a_job_whose_time_is_over_is_queued_again_and_goes_on(
    make_job: MakeJob,
    launch: Launch,
    until: Until,
    cluster: Path,
) -> None:
    job = make_job("waits")
    launcher = launch(job)
    first = wait_for(job.folder / "pid")
    until(launcher, lambda standings: standings[job].owner.split()[:1] == [first])
    # SLURM may tell all processes of a job; the run itself is ended by who has started it.
    os.kill(int(first), signal.SIGUSR2)
    os.kill(parent(int(first)), signal.SIGUSR2)
    second = wait_for(job.folder / "pid", first)
    assert (job.folder / "ended").exists()
    (job.folder / "go").touch()
    assert until(launcher, ended) == {job: Standing("finished")}
    assert int(second) != int(first)
    assert scripts(cluster) == 1


def test_a_second_command_finds_the_jobs_that_run_and_cancels_them(
    make_job: MakeJob,
    launch: Launch,
    until: Until,
    cluster: Path,
) -> None:
    job = make_job("waits")
    launch(job)
    pid = wait_for(job.folder / "pid")
    with pytest.raises(UserError, match=r"waits, seed 0 is job 1 of SLURM already, with other settings .*scancel 1"):
        launch(Job(job.experiment, ("model.layers=2",), "waits", 0, job.runs, job.folder))
    launcher = launch(job)
    assert until(launcher, lambda standings: standings[job].phase == "running")[job].owner.split()[0] == pid
    assert scripts(cluster) == 1
    launcher.cancel()
    assert (job.folder / "ended").exists()
    # What was cancelled is submitted again.
    launch(job)
    assert scripts(cluster) == 2
    wait_for(job.folder / "pid", pid)


def test_a_job_that_somebody_else_ends_has_failed_and_one_that_is_refused_says_why(
    make_job: MakeJob,
    launch: Launch,
    until: Until,
    cluster: Path,
) -> None:
    job = make_job("waits")
    launcher = launch(job)
    wait_for(job.folder / "pid")
    os.system("scancel 1")
    standing = until(launcher, ended)[job]
    assert standing.cause.startswith("SLURM's job 1 is CANCELLED by 0")
    assert last_words(job.folder / "log.txt") == standing.cause
    with pytest.raises(
        UserError, match=r"SLURM does not take fine, seed 0: .*invalid partition specified: moon\. Change"
    ):
        launch(make_job("fine"), partition="moon")


def parent(pid: int) -> int:
    """Of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
