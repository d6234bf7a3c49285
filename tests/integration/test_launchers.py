"""Ablations and parts of tokens by submitit and by a Ray cluster of two nodes: the same results, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

# More steps than two, so that something is lost where what is killed begins at its first again.
STEPS = {"tokenizer": 2, "image_base": 2, "sequential": 40, "interpolation": 2}
CHANGES = [f"stages.{stage}.steps={steps}" for stage, steps in STEPS.items()]
SUBMITIT = ("--launcher", "slurm", "--launcher-options", "cluster=local")
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


def results(runs: Path) -> dict[str, Any]:
    """The metrics of all runs, without what tells of time."""
    found = {path.parent: json.loads(path.read_text()) for path in sorted(runs.glob("*/*/*/metrics.json"))}
    return {str(run.relative_to(runs)): {k: v for k, v in own.items() if k != "speed"} for run, own in found.items()}


def codes(runs: Path) -> dict[str, bytes]:
    """The files of the tokens."""
    (tokens,) = runs.glob("stages/tokens-*")
    return {path.name: path.read_bytes() for path in tokens.iterdir() if path.name not in (".lock", "stage.json")}


@pytest.fixture(scope="module")
def expected(start: Any) -> dict[str, Any]:
    """The results of `--launcher local`."""
    finished(ablate(start, "local", "--jobs", "2"))
    found = results(start.folder / "local")
    assert sorted(found) == ["tiny/all/0", "tiny/local/0"]
    return found


@pytest.fixture(scope="module")
def nodes() -> Iterator[Callable[[], tuple[Any, Any]]]:
    """Gives a Ray cluster of two nodes with a CPU each, and the second of them."""
    pytest.importorskip("ray", reason="needs Ray, which cogvid[ray] installs")
    from ray.cluster_utils import Cluster

    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")

        def make() -> tuple[Any, Any]:
            if not made:
                arguments = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
                made.append(Cluster(initialize_head=True, head_node_args=arguments))
                patch.setenv("RAY_ADDRESS", made[0].address)
            if not made[0].worker_nodes:
                made[0].add_node(num_cpus=1, object_store_memory=2**27)
            return made[0], next(iter(made[0].worker_nodes))

        yield make
        for cluster in made:
            cluster.shutdown()


def test_submitit_gives_the_results_of_processes_here(start: Any, expected: dict[str, Any]) -> None:
    pytest.importorskip("submitit", reason="needs submitit, which cogvid[slurm] installs")
    assert "2 of 2 runs are finished." in finished(ablate(start, "submitit", *SUBMITIT))
    assert results(start.folder / "submitit") == expected


@pytest.mark.parametrize("what", ["worker", "node"])
def test_ray_gives_the_results_of_processes_here_though_something_is_killed(
    start: Any, expected: dict[str, Any], nodes: Callable[[], tuple[Any, Any]], what: str
) -> None:
    cluster, second = nodes()
    process = ablate(start, f"ray-{what}", *RAY)
    runs = start.folder / f"ray-{what}"
    raylet = second.all_processes["raylet"][0].process.pid
    run = wait_for(process, lambda: in_training(runs, raylet))
    kept = checkpoints(run)
    pid = int((run / ".lock").read_text().split()[0])
    if what == "node":
        cluster.remove_node(second, allow_graceful=False)
    else:
        os.kill(parent(pid), signal.SIGKILL)
    wait_for(process, lambda: not Path(f"/proc/{pid}").exists())
    assert "2 of 2 runs are finished." in finished(process)
    assert results(runs) == expected
    # It cost no step that was in a checkpoint.
    attempts = [steps_of(path) for path in sorted((run / "stages/sequential/events").glob("events*"))]
    assert len(attempts) == 2
    assert 1 < max(kept) < min(attempts[1])
    assert max(attempts[1]) == STEPS["sequential"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_tasks_of_ray_end_with_the_command_that_started_them(
    start: Any, nodes: Callable[[], tuple[Any, Any]], signum: signal.Signals
) -> None:
    nodes()
    runs = start.folder / signum.name
    process = start("ablate", "tiny.yaml", "stages.tokenizer.steps=20000", "--runs", str(runs), *RAY)
    wait_for(process, lambda: list(runs.glob("stages/tokenizer-*/checkpoints/step-*")))
    started = [int(path.read_text().split()[0]) for path in runs.glob("tiny/*/0/.lock")]
    assert len(started) == 2
    process.send_signal(signum)
    output, errors = process.communicate(timeout=120)
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    if signum == signal.SIGINT:
        assert process.returncode == 130
        assert "Error: Interrupted by SIGINT. Run the command again to go on" in errors, output + errors
        said = "".join(path.read_text() for path in runs.glob("tiny/*/0/output.txt"))
        assert said.count("tokenizer goes on from step") == 1


def test_parts_of_tokens_give_the_bytes_of_the_whole(start: Any, nodes: Callable[[], tuple[Any, Any]]) -> None:
    nodes()
    words = ("data", "tokenize", "tiny.yaml", *CHANGES, "data.options.clips=40")
    finished(start(*words, "--runs", "whole"))
    for runs, launcher in (("parts-here", ("--jobs", "2")), ("parts-ray", RAY)):
        output = finished(start(*words, "--runs", runs, "--parts", "3", *launcher))
        assert "part 3/3: finished" in output
        assert "40 clips" in output
        assert codes(start.folder / runs) == codes(start.folder / "whole")


def steps_of(events: Path) -> list[int]:
    """The steps that one attempt at a training has logged."""
    return [event.step for event in EventFileLoader(str(events)).Load() if event.step]


def in_training(runs: Path, raylet: int) -> Path | None:
    """The run whose process is a node's, and has a checkpoint in the middle of its longest training."""
    for path in runs.glob("tiny/*/*/.lock"):
        pid = int((path.read_text() or "0").split()[0])
        if Path(f"/proc/{pid}").exists() and parent(parent(pid)) == raylet and max(checkpoints(path.parent)) > 1:
            return path.parent
    return None


def checkpoints(run: Path) -> list[int]:
    """The steps of a run's checkpoints of its longest training, and 0."""
    state = run / "state.json"
    said = json.loads(state.read_text()) if state.exists() else {}
    stage = Path(said.get("folder") or run)
    found = stage.glob("checkpoints/step-*") if said.get("stage") == "sequential" else []
    return [0, *(int(path.name.removeprefix("step-")) for path in found if path.name.removeprefix("step-").isdecimal())]


def wait_for(process: Any, look: Callable[[], Any], seconds: float = 200) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        if process.poll() is not None:
            raise AssertionError(process.communicate())
        time.sleep(0.02)
    raise AssertionError("not in time")


def parent(pid: int) -> int:
    """Of a process; 0 where there is none."""
    stat = Path(f"/proc/{pid}/stat")
    return int(stat.read_text().rpartition(")")[2].split()[1]) if pid and stat.exists() else 0
