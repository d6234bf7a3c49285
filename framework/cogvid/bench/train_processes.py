"""Several processes of one thread each, beside one process of as many threads: the same training."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from cogvid.bench.train import WARM, TrainCase, TrainSettings
from cogvid.bench.train_stage import Trainings
from cogvid.errors import UserError
from cogvid.pipeline.launch import joined
from cogvid.training import job

STEPS = "steps.json"


@dataclass
class ProcessesResult:
    """Of one case.

    Attributes:
        count: processes, and threads of the one.
        batch_size: sequences of a step, over all processes.
        many: seconds of the steps of each round, by processes.
        one: the same by one process.
    """

    case: TrainCase
    count: int
    batch_size: int
    many: list[list[float]] = field(default_factory=list)
    one: list[list[float]] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Sequences a second of the processes over those of the one: medians of each round, and of these the median."""
        pairs = zip(self.one, self.many, strict=True)
        return statistics.median(statistics.median(one) / statistics.median(many) for one, many in pairs)


def run_processes(
    case: TrainCase, settings: TrainSettings, count: int, threads: int, say: Callable[[str], None]
) -> ProcessesResult:
    """Train in turns, each time in fresh processes.

    Args:
        case, settings: what to run.
        count: processes.
        threads: of the one process; `count` of them but in a rehearsal, as threads that wait for a core take ages.
        say: called with what is going on.

    Raises:
        UserError: a batch cannot be shared out among the processes, or one of them failed.
    """
    batch = getattr(case.lab(settings).config.stages, case.stage).batch_size
    result = ProcessesResult(case, count, batch)
    for number in range(settings.repeats):
        for processes, own, found in ((count, 1, result.many), (1, threads, result.one)):
            say(f"{case.name}: {processes} processes of {own} threads, round {number + 1}")
            found.append(_fresh(case, settings, processes, own)[WARM:])
    return result


def _fresh(case: TrainCase, settings: TrainSettings, processes: int, threads: int) -> list[float]:
    """Seconds of the steps of a job of its own."""
    with TemporaryDirectory() as folder:
        asked = {"case": asdict(case), "settings": asdict(settings), "processes": processes, "threads": threads}
        command = [sys.executable, "-m", "cogvid.bench.train_processes", folder, json.dumps(asked)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(
                f"{case.name}: a job of {processes} processes failed: {done.stderr.strip() or 'no message'}"
            )
        steps: list[float] = json.loads((Path(folder) / STEPS).read_text())
        return steps


def main(folder: Path, case: TrainCase, settings: TrainSettings, processes: int, threads: int) -> None:
    """In a process of the job: train once; the leader writes the seconds of the steps into the folder."""
    lab = case.lab(settings, processes, threads)
    with joined(lab.config.trainer):
        watch = Trainings(lab, case.stage, folder).train()
        if job.leads():
            (folder / STEPS).write_text(json.dumps([step.total for step in watch.actions.steps]))


if __name__ == "__main__":
    _asked = json.loads(sys.argv[2])
    _case = TrainCase(**_asked["case"])
    try:
        main(Path(sys.argv[1]), _case, TrainSettings(**_asked["settings"]), _asked["processes"], _asked["threads"])
    except UserError as error:
        raise SystemExit(str(error)) from None
