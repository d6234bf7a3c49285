"""Several processes do what one does: the same losses from the same samples, whoever starts them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

STEPS = 20
TRANSFORMERS = ("image_base", "sequential", "interpolation")
TRAININGS = [f"stages.{stage}.steps={STEPS}" for stage in ("tokenizer", *TRANSFORMERS)]
TRAININGS += [f"stages.{stage}.batch_size=4" for stage in TRANSFORMERS]
FRAMES = 8  # of a batch of the tokenizer
HELD_OUT = 16  # test clips
RUN = "tiny/default/0"
# Writes down which samples a process draws.
RECORDER = """
import os
from pathlib import Path

import cogvid
from cogvid.data.frames import FrameSamples
from cogvid.data.samples import TokenSamples

def recorded(samples):
    draw = samples.__getitem__

    def item(self, number):
        with (Path(os.environ["RECORDS"]) / f"{samples.__name__}-{os.getpid()}").open("a") as file:
            file.write(f"{number}\\n")
        return draw(self, number)

    samples.__getitem__ = item

if "RECORDS" in os.environ:
    recorded(FrameSamples)
    recorded(TokenSamples)

@cogvid.hookimpl
def register_metrics():
    return {}
"""


class Reference:
    """What one process has left in `one`, and jobs that do parts of it again."""

    def __init__(self, jobs: Any) -> None:
        self.jobs, self.folder = jobs, jobs.folder
        jobs.run(*self.words("one"))

    def words(self, runs: str, *more: str) -> list[str]:
        return ["tiny.yaml", "--runs", runs, *TRAININGS, "plugins=[./recorder.py]", *more]

    def without(self, runs: str, *stages: str) -> Path:
        """Where a run will be that finds the reference's stages finished, without these."""
        shutil.copytree(self.folder / "one" / "stages", self.folder / runs / "stages")
        for stage in (*stages, "samples", "metrics"):
            for folder in (self.folder / runs / "stages").glob(f"{stage}-*"):
                shutil.rmtree(folder)
        return self.folder / runs / RUN

    def check(self, run: Path, *stages: str) -> None:
        one, other = self.jobs.histories(self.folder / "one" / RUN), self.jobs.histories(run)
        for stage in stages:
            assert [line["step"] for line in other[stage]] == [*range(1, STEPS + 1)]
            expected = [line["loss"] for line in one[stage]]
            assert [line["loss"] for line in other[stage]] == pytest.approx(expected, rel=1e-5, abs=0), stage


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, tiny_text: str, make_jobs: Callable[[Path], Any]) -> Reference:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "tiny.yaml").write_text(tiny_text)
    (folder / "recorder.py").write_text(RECORDER)
    return Reference(make_jobs(folder))


@pytest.fixture
def records(tmp_path: Path) -> Callable[[str], list[list[int]]]:
    """The numbers of the samples of a kind that each process has drawn, where `RECORDS` is the test's folder."""

    def records(kind: str) -> list[list[int]]:
        return [[int(line) for line in path.read_text().split()] for path in tmp_path.glob(f"{kind}-*")]

    return records


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_two_processes_learn_the_frame_tokenizer_of_one(
    one: Reference, tmp_path: Path, records: Callable[[str], list[list[int]]]
) -> None:
    run = one.without("tokenizer", "tokenizer", "tokens", *TRANSFORMERS)
    short = [f"stages.{stage}.steps=1" for stage in TRANSFORMERS]
    said = one.jobs.run(*one.words("tokenizer", *short, "trainer.devices=2"), environments=[{"RECORDS": str(tmp_path)}])
    one.check(run, "tokenizer")
    codebooks = [
        load_file(folder / "stages" / "tokenizer" / "model.safetensors")["quantizer._codebook.embed"]
        for folder in (one.folder / "one" / RUN, run)
    ]
    assert (codebooks[0] - codebooks[1]).abs().max() < 1e-5
    shares = records("FrameSamples")
    # The batch after the last step's is fetched, too, ahead of its time.
    assert [len(own) for own in shares] == [(STEPS + 1) * FRAMES // 2] * 2
    assert sorted(chain.from_iterable(shares)) == [*range((STEPS + 1) * FRAMES)]
    assert said[0].count("Finished") == 1


@pytest.mark.parametrize(("parts", "launcher"), [(1, "torchrun"), (2, "slurm")])
def test_two_processes_learn_the_transformers_of_one(
    one: Reference, tmp_path: Path, records: Callable[[str], list[list[int]]], parts: int, launcher: str
) -> None:
    run = one.without(launcher, *TRANSFORMERS)
    starts = torchrun() if launcher == "torchrun" else slurm()
    starts["environments"] = [{**each, "RECORDS": str(tmp_path)} for each in starts["environments"]]
    said = one.jobs.run(*one.words(launcher, "trainer.devices=2", f"trainer.accumulate={parts}"), **starts)
    assert "".join(said).count("Finished") == 1
    one.check(run, *TRANSFORMERS)
    # One part of a step's batch after the last is fetched, too, ahead of its time.
    drawn, held_out = range(STEPS * 4 + 4 // parts), [*range(HELD_OUT)]
    shares = records("TokenSamples")
    assert [len(own) for own in shares] == [3 * (len(drawn) // 2 + HELD_OUT)] * 2
    # Those that the held-out loss is of are read by each process.
    assert sorted(chain.from_iterable(shares)) == sorted([*drawn, *held_out, *held_out] * 3)


def torchrun() -> dict[str, Any]:
    module = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m")
    return {"through": module, "environments": [{}]}


def slurm() -> dict[str, Any]:
    """What srun tells two tasks on one machine."""
    job = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    job |= {"SLURM_NODEID": "0", "MASTER_PORT": free_port()}
    return {"environments": [{**job, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]}


def test_two_machines_have_a_process_each(one: Reference) -> None:
    run = one.without("machines", "interpolation")
    port = free_port()
    machines = [{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(n)} for n in range(2)]
    said = one.jobs.run(*one.words("machines", "trainer.num_nodes=2"), environments=machines)
    one.check(run, "interpolation")
    assert [output.count("Finished") for output in said] == [1, 0]


def test_a_mistake_of_all_is_said_by_one(one: Reference) -> None:
    run = one.without("diverged", "tokenizer", "tokens", *TRANSFORMERS)
    words = one.words("diverged", "trainer.devices=2", "stages.tokenizer.adam_lr=1e9", "stages.tokenizer.clip_norm=0")
    (process,) = one.jobs.start("run", *words)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert errors.count("Error:") == 1
    assert "Traceback" not in errors
    assert re.search("tokenizer.*(loss|weight)", errors)
    assert "Finished" not in output
    assert not (run / "stages" / "tokenizer").exists()


def test_a_killed_process_ends_the_job_with_one_message(one: Reference) -> None:
    run = one.without("killed", "sequential", "interpolation")
    (leader,) = one.jobs.start("run", *one.words("killed", "trainer.devices=2", "stages.sequential.steps=100000"))
    histories = run.parents[2] / "stages"
    wait_for(leader, lambda: any(len(p.read_text()) for p in histories.glob("sequential-*/history.jsonl")))
    (other,) = children(leader.pid)
    os.kill(other, signal.SIGKILL)
    errors = leader.communicate(timeout=200)[1]
    assert leader.returncode == 1
    assert errors.startswith("Error: Another process of this job has ended"), errors
    assert errors.count("Error:") == 1
    assert not list(histories.glob("sequential-*/stage.json"))


def test_sigterm_while_the_leader_works_alone_is_said_by_it(one: Reference) -> None:
    """The other waits for data meanwhile."""
    words = ["run", *one.words("waiting", "trainer.devices=2", "data.options.clips=20000")]
    (leader,) = one.jobs.start(*words)
    wait_for(leader, lambda: list((one.folder / "waiting").glob("stages/data-*/clips/*")))
    for pid in (leader.pid, *children(leader.pid)):
        os.kill(pid, signal.SIGTERM)
    errors = leader.communicate(timeout=200)[1]
    assert leader.returncode == 143
    assert errors.count("Error: Interrupted by SIGTERM.") == 1
    assert "Another process" not in errors


def wait_for(process: Any, event: Callable[[], object]) -> None:
    while not event():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes of a job that its leader has started: not those that draw data for it."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes()]
