"""Ablations by a Ray cluster of two nodes: the same results, whatever is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.pipeline.run_state import read_run_state
from helpers import results

# More steps than two, so that something is lost where what is killed begins at its first again.
STEPS = {"tokenizer": 2, "image_base": 2, "sequential": 120, "interpolation": 2}
CHANGES = [f"stages.{stage}.steps={steps}" for stage, steps in STEPS.items()]
RAY = ("--launcher", "ray")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, make_jobs: Any, tiny_text: str) -> Any:
    """Starts `cogvid` in the folder of `tiny.yaml`."""
    folder = tmp_path_factory.mktemp("launchers")
    (folder / "tiny.yaml").write_text(tiny_text)
    jobs = make_jobs(folder)

    def start(*words: str) -> Any:
        return jobs.start(*words)[0]

    start.folder = folder  # type: ignore[attr-defined]
    return start


def finished(process: Any) -> str:
    """What a command says that succeeds."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return str(output)


def ablate(start: Any, runs: str, *words: str) -> Any:
    return start("ablate", "tiny.yaml", *CHANGES, "--runs", runs, *words)


@pytest.fixture(scope="module")
def expected(start: Any) -> dict[str, Any]:
    """The results of runs that nothing disturbs."""
    runs = start.folder / "undisturbed"
    for variant in ("local", "all"):
        words = ["run", str(start.folder / "tiny.yaml"), *CHANGES, "--variant", variant, "--runs", str(runs)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    return results(runs)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a CPU each."""
    pytest.importorskip("ray", reason="needs Ray, which cogvid[ray] installs")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        room = {"num_cpus": 1, "object_store_memory": 2**27}
        made = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False})
        made.add_node(**room)
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
        made.shutdown()


def test_ray_gives_the_results_of_undisturbed_runs_whatever_ends_on_the_way(
    start: Any, expected: dict[str, Any], cluster: Any
) -> None:
    runs = start.folder / "ray"
    second = next(iter(cluster.worker_nodes))
    nodes = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]}

    def begin() -> Any:
        return ablate(start, "ray", *RAY)

    # Each costs no step that is in a checkpoint: the command is interrupted, a node is lost, a worker is killed.
    process = begin()
    lost = [wait_for(process, lambda: training(runs, nodes, {}))]
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert "Error: Interrupted by SIGINT. Run the command again to go on" in errors
    assert not lost[-1].lives()

    kept = checkpoints(runs)
    process = begin()
    (on_second,) = (node.process.pid for node in second.all_processes["raylet"])
    lost.append(wait_for(process, lambda: training(runs, {on_second}, kept)))
    cluster.remove_node(second, allow_graceful=False)
    wait_for(process, lambda: not lost[-1].lives())

    kept = checkpoints(runs)
    lost.append(wait_for(process, lambda: training(runs, nodes - {on_second}, kept)))
    os.kill(parent(lost[-1].pid), signal.SIGKILL)
    assert "2 of 2 runs are finished." in finished(process)
    assert results(runs) == expected
    for each in lost:
        # None where the last step was kept.
        again = [step for attempt in each.attempts()[each.attempt + 1 :] for step in attempt]
        assert each.kept > 1
        assert all(step > each.kept for step in again)
        assert max([each.kept, *again]) == STEPS["sequential"]


def test_tasks_of_ray_end_with_the_command_that_is_killed(start: Any, cluster: Any) -> None:
    runs = start.folder / "killed"
    process = start("ablate", "tiny.yaml", "stages.tokenizer.steps=20000", "--runs", str(runs), *RAY)
    wait_for(process, lambda: list(runs.glob("stages/tokenizer-*/checkpoints/step-*")))
    started = [int(path.read_text().split()[0]) for path in runs.glob("tiny/*/0/.lock")]
    assert started
    process.kill()
    wait_for(None, lambda: not any(lives(pid) for pid in started))


@dataclass(frozen=True)
class Lost:
    """A process in the middle of its run's longest training, before it ends.

    Attributes:
        attempt: at the training, counted from 0.
        kept: the step of its newest checkpoint.
    """

    run: Path
    pid: int
    attempt: int
    kept: int

    def lives(self) -> bool:
        return lives(self.pid)

    def attempts(self) -> list[list[int]]:
        """The steps that each attempt at the training has logged."""
        files = sorted((self.run / "stages/sequential/events").glob("events*"))
        return [[event.step for event in EventFileLoader(str(file)).Load() if event.step] for file in files]


def training(runs: Path, raylets: Set[int], earlier: Mapping[Path, int]) -> Lost | None:
    """A run that one of these nodes trains, and that has a newer checkpoint than `earlier` has."""
    for run, kept in checkpoints(runs).items():
        pid = int(((run / ".lock").read_text() or "0").split()[0])
        if kept > earlier.get(run, 1) and parent(parent(pid)) in raylets:
            stage = Path(read_run_state(run).folder)
            return Lost(run, pid, len(list(stage.glob("events/events*"))) - 1, kept)
    return None


def checkpoints(runs: Path) -> dict[Path, int]:
    """The step of the newest checkpoint of each run that is at its longest training."""
    found = {}
    for run in runs.glob("tiny/*/*"):
        state = read_run_state(run)
        if state.stage == "sequential":
            names = [path.name.removeprefix("step-") for path in Path(state.folder).glob("checkpoints/step-*")]
            found[run] = max((int(name) for name in names if name.isdecimal()), default=1)
    return found


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_for(process: Any, look: Callable[[], Any], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        if process is not None and process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.02)
    raise AssertionError("not in time")


def parent(pid: int) -> int:
    """Of a process; 0 where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    return int(stat.read_text().rpartition(")")[2].split()[1]) if pid and stat.exists() else 0
