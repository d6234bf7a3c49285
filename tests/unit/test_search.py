"""A search: what is tried next, when a trial is pruned, what it is over with, and that a kill changes none of it."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cogvid.ablation.local import Local
from cogvid.config.schema import SearchConfig
from cogvid.config.sources import parse_yaml
from cogvid.config.space import Choices, Range
from cogvid.search.losses import held_out_losses, is_finished
from cogvid.search.trial import Trial, TrialJob, as_said, trial_variant

optuna = pytest.importorskip("optuna", reason="Optuna is an extra: pip install 'cogvid[search]'")

from cogvid.search import follow  # noqa: E402
from cogvid.search.check import points  # noqa: E402
from cogvid.search.follow import Goal, Search  # noqa: E402
from cogvid.search.study import Study  # noqa: E402
from cogvid.search.table import Shown  # noqa: E402
from cogvid.search.target import Target  # noqa: E402

SPACE = [
    Range("stages.sequential.muon_lr", 1e-3, 1e-1, log=True),
    Range("model.layers", 2, 8, step=2),
    Choices("attention", ("naive", "local3d", {"name": "local3d", "options": {"bias": True}})),
]
LOSS = Target("held_out.sequential", "sequential.held-out.loss", "lower", "sequential")


def study(folder: Path, better: str = "lower", seed: int = 0, space: list[Any] = SPACE, **search: Any) -> Study:
    return Study(folder / "journal.jsonl", SearchConfig(**({"startup": 4} | search)), space, better, seed)


def loss_of(trial: Trial, step: int) -> float:
    """Of a training that diverges or goes badly with some values, and goes well with others."""
    rate, layers = float(trial.values["stages.sequential.muon_lr"]), int(trial.values["model.layers"])
    return abs(math.log10(rate) + 2) + abs(layers - 6) / 8 + 3 / step


def go_on(study: Study, trials: int) -> list[Trial]:
    """What a search does, as it is told."""
    for trial in study.trials:
        if trial.phase == "running":
            do(study, trial)
    while len(study.trials) < trials:
        do(study, study.begin())
    return study.trials


def do(study: Study, trial: Trial) -> None:
    if trial.values["attention"] == "naive" and trial.values["model.layers"] == "8":
        study.fail(trial.number, "RuntimeError: no memory")
        return
    for step in range(1, 6):
        if study.is_pruned_at(trial.number, step, loss_of(trial, step)):
            study.prune(trial.number, "sequential", step)
            return
    study.finish(trial.number, loss_of(trial, 6), "ab")


def test_a_search_finds_better_values_than_it_began_with_and_prunes_what_goes_badly(tmp_path: Path) -> None:
    trials = go_on(study(tmp_path), 30)
    assert {trial.phase for trial in trials} == {"finished", "pruned", "failed"}
    assert all(trial.phase != "pruned" for trial in trials[:4])
    best = study(tmp_path).best
    assert best is not None
    assert best.number > 4
    assert best.value == min(trial.value for trial in trials if trial.value is not None)
    assert next(t.note for t in trials if t.phase == "failed") == "RuntimeError: no memory"
    assert {t.note.rpartition(" of ")[2] for t in trials if t.phase == "pruned"} == {"sequential"}


def test_the_same_seed_tries_the_same_and_another_seed_something_else(tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate([3, 3, 4]):
        (tmp_path / str(number)).mkdir()
        found.append(go_on(study(tmp_path / str(number), seed=seed), 12))
    assert found[0] == found[1] != found[2]


def test_a_search_that_is_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = go_on(study(tmp_path / "whole"), 10)
    content = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    assert json.loads(content.splitlines()[0])  # nothing in it is pickled
    ends = [place for place, letter in enumerate(content, 1) if letter == ord("\n")]
    # Behind lines of every kind, and in the middle of some.
    for cut in [*ends[1::7], *(end + 20 for end in ends[:-1:17])]:
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(content[:cut])
        (folder / "journal.jsonl.lock").symlink_to(folder / "journal.jsonl")
        assert go_on(study(folder), 10) == whole


def test_more_trials_go_on_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    few = go_on(study(tmp_path), 6)
    assert go_on(study(tmp_path), 12)[:6] == few
    assert study(tmp_path).trials == go_on(study(tmp_path / "once"), 12)


def test_where_higher_is_better_the_best_is_the_highest_and_higher_losses_are_pruned(tmp_path: Path) -> None:
    own = study(tmp_path, "higher", startup=2)
    for value, losses in ((0.2, (3.0, 2.0)), (0.9, (2.0, 1.0)), (0.5, (2.4, 1.4))):
        trial = own.begin()
        assert not any(own.is_pruned_at(trial.number, step, loss) for step, loss in enumerate(losses, 1))
        own.finish(trial.number, value, "ab")
    assert own.best is not None
    assert (own.best.number, own.best.value) == (1, 0.9)
    trial = own.begin()
    assert not own.is_pruned_at(trial.number, 1, 2.3)
    assert own.is_pruned_at(trial.number, 2, 2.2)
    assert own.is_pruned_at(trial.number, 2, 2.2)  # told again, after a kill


def test_a_value_that_cannot_be_compared_with_the_others_is_a_failed_trial(tmp_path: Path) -> None:
    own = study(tmp_path)
    own.finish(own.begin().number, 1.0, "ab")
    failed = own.finish(own.begin().number, 0.5, "cd")
    assert failed.phase == "failed"
    assert "was not measured as that of trial 0" in failed.note
    assert own.best is not None
    assert own.best.number == 0


def test_trials_side_by_side_differ(tmp_path: Path) -> None:
    own = study(tmp_path)
    for _ in range(6):
        do(own, own.begin())
    beside = [own.begin().values for _ in range(4)]
    assert all(one != other for number, one in enumerate(beside) for other in beside[:number])


def test_drawn_numbers_are_short_and_stay_in_their_range(tmp_path: Path) -> None:
    narrow = Range("stages.sequential.ema", 0.99999912, 0.99999987)
    for trial in go_on_drawing(study(tmp_path, space=[*SPACE, narrow], sampler="random"), 20):
        assert len(trial.values["stages.sequential.muon_lr"]) < 12
        assert 1e-3 <= float(trial.values["stages.sequential.muon_lr"]) <= 1e-1
        assert 0.99999912 <= float(trial.values["stages.sequential.ema"]) <= 0.99999987
        assert trial.values["model.layers"] in ("2", "4", "6", "8")


def go_on_drawing(study: Study, trials: int) -> list[Trial]:
    return [study.begin() for _ in range(trials)]


@pytest.mark.parametrize(
    "value", ["naive", "a, b", "on", "true", True, None, 3, 1e-05, [3, 2], {"name": "x"}, "", "1e3"]
)
def test_the_command_line_reads_a_value_as_it_is_said(value: Any) -> None:
    assert parse_yaml(as_said(value), "")[0] == value
    assert type(parse_yaml(as_said(value), "")[0]) is type(value)


def test_all_values_are_tried_and_combinations_while_they_are_few() -> None:
    assert len(points(SPACE)) == 2 * 2 * 3 + 2 + 0  # ends and choices; layers 4 and 6 with the first of the others
    many = [Choices(f"k{number}", (0, 1)) for number in range(9)]
    assert len(points(many)) == 1 + 9


def test_held_out_losses_are_read_while_they_are_written(tmp_path: Path) -> None:
    run, stage = tmp_path / "run", tmp_path / "stages" / "sequential-1"
    stage.mkdir(parents=True)
    run.mkdir()
    assert held_out_losses(run, "sequential") == []
    (run / "state.json").write_text(json.dumps({"stage": "sequential", "folder": str(stage), "steps": 9}))
    assert held_out_losses(run, "sequential") == []
    lines = ['{"step": 2, "loss": 1, "held_out": 3.5}', '{"step": 3, "loss": 1}', '{"step": 4, "held_out": NaN}']
    (stage / "history.jsonl").write_text("\n".join([*lines, '{"step": 6, "held_out": 2.5}', '{"step": 8, "held']))
    assert held_out_losses(run, "sequential") == [(2, 3.5), (6, 2.5)]
    assert held_out_losses(run, "interpolation") == []
    (run / "state.json").write_text(json.dumps({"stage": "interpolation", "folder": str(tmp_path), "steps": 9}))
    (run / "stages").mkdir()
    (run / "stages" / "sequential").symlink_to(stage)
    assert held_out_losses(run, "sequential") == [(2, 3.5), (6, 2.5)]
    assert not is_finished(run, "sequential")


# A process in place of a run: it writes what a run's sequential stage does, and stays until it is ended.
COMMAND = r"""
import json, signal, sys, time
from pathlib import Path

words = sys.argv[1:]
values = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("--"))
run = Path(words[words.index("--runs") + 1]) / "tiny" / values["variant"] / values["seed"]
rate = float(values["stages.sequential.muon_lr"])
stage = run / "stages" / "sequential"
stage.mkdir(parents=True, exist_ok=True)
with (run / "starts.txt").open("a") as file:
    file.write("started\n")

def write(step, loss):
    with (stage / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "held_out": loss}) + "\n")

(stage / "history.jsonl").unlink(missing_ok=True)
if values["attention"] == "naive":
    print("Error: the attention has no kernel.")
    raise SystemExit(1)
for step in (1, 2, 3):
    write(step, rate * 100 + 1 / step)
    if "slow" in values["name"] and step == 2:
        time.sleep(60)
finished = {"name": "sequential", "key": "k", "held_out": rate * 100, "held_out_on": {"samples": 1}}
(stage / ".partial").write_text(json.dumps(finished))
(stage / ".partial").rename(stage / "stage.json")
if "short" not in values["name"]:
    time.sleep(60)
"""


class Command:
    """Searches whose runs are processes of a few lines.

    Args:
        folder: to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self.said: list[str] = []

    def job_of(self, name: str) -> Callable[[Trial], TrialJob]:
        def job(trial: Trial) -> TrialJob:
            variant = trial_variant("", trial.number)
            values = (f"name={name}", *trial.changes, f"variant={variant}")
            folder = self.runs / "tiny" / variant / "0"
            return TrialJob("tiny", values, "default", 0, self.runs, folder, number=trial.number)

        return job

    def search(self, own: Study, name: str, trials: int, at_once: int = 1, **goal: Any) -> list[Trial]:
        """Search, and give all trials."""
        console = Console(width=300, record=True, force_terminal=False, file=io.StringIO())
        goal = {"whole": False, "prune": "sequential", "steps": 3} | goal
        shares = [{"OMP_NUM_THREADS": "1"}] * at_once
        try:
            with Shown(console, LOSS.name) as shown:
                Search(own, Goal(LOSS, **goal), Local(shares), self.job_of(name), shown).run(trials, at_once)
        finally:
            self.said = [line.rstrip() for line in console.export_text().splitlines()]
        return own.trials


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    package = tmp_path / "path" / "cogvid"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(COMMAND)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setattr(follow, "_EVERY", 0.01)
    return Command(tmp_path)


SIMPLE = [
    Range("stages.sequential.muon_lr", 1e-3, 1e-1, log=True),
    Choices("attention", ("local3d", "swin_ar", "naive")),
]


def of(trials: list[Trial], phase: str) -> list[Trial]:
    return [trial for trial in trials if trial.phase == phase]


@pytest.mark.parametrize("at_once", [1, 3])
def test_trials_fail_are_pruned_and_finish_and_none_stops_another(
    tmp_path: Path, command: Command, at_once: int
) -> None:
    own = study(tmp_path, space=SIMPLE, sampler="random", startup=2, seed=1)
    trials = command.search(own, "tiny", 10, at_once)
    assert len(trials) == 10
    failed, pruned, finished = (of(trials, phase) for phase in ("failed", "pruned", "finished"))
    assert failed
    assert pruned
    assert finished
    assert all(trial.values["attention"] == "naive" for trial in failed)
    assert {trial.note for trial in failed} == {"UserError: the attention has no kernel"}
    for trial in finished:  # which its run had before it was over
        assert trial.value == pytest.approx(100 * float(trial.values["stages.sequential.muon_lr"]))
        assert f"{trial.title}: finished, held_out.sequential {trial.value:.6g}" in command.said
    for trial in pruned:
        log = (command.job_of("tiny")(trial).folder / "log.txt").read_text()
        assert f"ERROR ended by cogvid search, which pruned it {trial.note}" in log
        assert f"{trial.title}: pruned {trial.note}" in command.said
    assert f"trial 0: {' '.join(trials[0].changes)}" in command.said


def test_one_at_a_time_the_search_does_not_depend_on_how_far_runs_come(tmp_path: Path, command: Command) -> None:
    (tmp_path / "other").mkdir()
    one = command.search(study(tmp_path, space=SIMPLE, startup=2, seed=1), "tiny", 8)
    assert of(one, "pruned")
    other = Command(tmp_path / "other")
    # Runs that have ended before anybody looks at them.
    assert other.search(study(tmp_path / "other", space=SIMPLE, startup=2, seed=1), "tiny-short", 8) == one


def test_a_search_that_is_interrupted_ends_its_runs_and_goes_on_with_their_values(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def show(self: Shown, trials: list[Trial], states: Mapping[int, Any]) -> None:
        if len(trials) == 2 and held_out_losses(command.job_of("slow")(trials[1]).folder, "sequential"):
            raise Ended

    local = [SIMPLE[0], Choices("attention", ("local3d", "swin_ar"))]
    with monkeypatch.context() as patched:
        patched.setattr(Shown, "show", show)
        with pytest.raises(Ended):
            command.search(study(tmp_path, space=local), "slow", 5, at_once=2)
    before = study(tmp_path, space=local).trials
    assert [trial.phase for trial in before] == ["running", "running"]
    trials = command.search(study(tmp_path, space=local), "tiny", 3, at_once=2)
    assert [trial.values for trial in trials[:2]] == [trial.values for trial in before]
    assert {trial.phase for trial in trials} == {"finished"}
    starts = [(command.job_of("tiny")(trial).folder / "starts.txt").read_text().count("started") for trial in trials]
    assert starts == [2, 2, 1]


def test_the_last_loss_of_the_targets_own_stage_prunes_nothing_and_others_do() -> None:
    plain, longer = Trial(0, {}, "running"), Trial(1, {"stages.sequential.steps": "9"}, "running")
    own = Goal(LOSS, False, "sequential", 3)
    assert [own.may_prune(plain, step) for step in (2, 3)] == [True, False]
    assert [own.may_prune(longer, step) for step in (3, 9)] == [True, False]
    metric = Target("metrics.generated.fvd.fvd", "generated.fvd.fvd", "lower")
    assert Goal(metric, False, "sequential", 3).may_prune(plain, 3)


def test_whole_runs_come_to_their_end(tmp_path: Path, command: Command) -> None:
    local = [SIMPLE[0], Choices("attention", ("local3d",))]
    (trial,) = command.search(study(tmp_path, space=local), "tiny-short", 1, whole=True)
    assert trial.phase == "finished"
    assert not (command.job_of("tiny")(trial).folder / "log.txt").exists()


def test_a_run_without_the_value_is_a_failed_trial(tmp_path: Path, command: Command) -> None:
    local = [SIMPLE[0], Choices("attention", ("local3d",))]
    other = Target("metrics.generated.fvd.fvd", "generated.fvd.fvd", "lower")
    own = study(tmp_path, space=local)
    with Shown(Console(file=sys.stderr), other.name) as shown:
        Search(own, Goal(other, False, None, 0), Local([{}]), command.job_of("tiny-short"), shown).run(1, 1)
    assert own.trials[0].note.startswith("the run has no value of metrics.generated.fvd.fvd")
