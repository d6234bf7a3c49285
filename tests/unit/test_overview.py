"""`cogvid list`: what can be named here, and what each run is at."""

from __future__ import annotations

import fcntl
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config import load_experiment
from cogvid.config.sources import shipped
from cogvid.overview.configuration import experiments, first_sentence, fragments
from cogvid.overview.runs import FoundRun, runs_below
from cogvid.pipeline.listing import write_listing
from cogvid.pipeline.run_state import RunState, write_run_state

MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


def listed(*words: str) -> str:
    result = CliRunner().invoke(app, ["list", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def line_of(text: str, *starts: str) -> str:
    """The one line that begins with these words."""
    (line,) = [line for line in text.splitlines() if line.split()[: len(starts)] == list(starts)]
    return " ".join(line.split())


@contextmanager
def held(run: Path, owner: int | None = None) -> Iterator[None]:
    """A run at which a process is at work: this one, or one of another number."""
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{owner or os.getpid()} {platform.node()}")
        lock.flush()
        yield


def test_every_built_in_experiment_and_fragment_is_listed_and_says_what_it_is() -> None:
    names = {path.stem for path in (shipped() / "experiments").glob("*.yaml")}
    found = {each.name: each for each in experiments()}
    assert set(found) == names
    for each in found.values():
        assert (each.origin, each.broken) == ("cogvid", "")
        assert each.description
        assert list(each.variants) == load_experiment(each.name).variants
    parts = fragments()
    assert {"attention/local3d", "trainer/gpu", "protocol/shapes"} <= {each.name for each in parts}
    assert all(each.description and each.origin == "cogvid" for each in parts)


def test_experiments_of_the_folder_are_listed_as_commands_find_them() -> None:
    write("mine.yaml", "# Which window? Three.\n#\n# Command: none\nbase: [lab]\nvariants: {b: {}}\n")
    write("experiments/sub/lab.yaml", "base: [quickstart]\ndescription: of the lab\n")
    write("experiments/lab.yaml", "base: [quickstart]\nvariants: {a: {seed: 1}}\n")
    write("experiments/quickstart.yaml", "base: [base]\ndescription: another\n")
    for name in ("both.yaml", "experiments/both.yaml"):
        write(name, f"base: [quickstart]\ndescription: {name}\n")
    write("compose.yaml", "services: {web: {}}\nname: web\n")
    write(".hidden.yaml", "base: [lab]\n")
    write("sub/far.yaml", "base: [lab]\n")
    found = {each.name: each for each in experiments() if each.origin != "cogvid"}
    assert {name: each.origin for name, each in found.items()} == {
        "both": "both.yaml",
        "mine": "mine.yaml",
        "sub/lab": "experiments/sub/lab.yaml",
        "lab": "experiments/lab.yaml",
        "quickstart": "experiments/quickstart.yaml",
    }
    assert (found["mine"].description, found["mine"].variants) == ("Which window? Three", ("a", "b"))
    assert found["sub/lab"].description == "of the lab"
    for name, each in found.items():
        assert load_experiment(name).path.resolve() == each.path.resolve()


def test_a_broken_experiment_is_listed_with_the_cause() -> None:
    write("mine.yaml", "base: [attention/local3]\n")
    write("yours.yaml", "base: [quickstart\n")
    text = listed("experiments")
    assert line_of(text, "mine") == "mine broken, see below mine.yaml"
    missing = "mine.yaml:1: there is no fragment 'attention/local3'. Did you mean 'attention/local3d'?"
    assert line_of(text, "Broken:", "mine.yaml:1:").startswith(f"Broken: {missing}")
    assert "not valid YAML" in line_of(text, "Broken:", "yours.yaml:2:")
    assert line_of(text, "quickstart")


def test_fragments_say_how_they_are_named() -> None:
    write("configs/trainer/big.yaml", "\n# Eight GPUs. Or more.\n# Really.\ntrainer: {devices: 8}\n")
    write("configs/attention/wide.yaml", "attention: naive\n")
    write("configs/attention/naive.yaml", "# Mine\nattention: naive\n")
    write("configs/alone.yaml", "seed: 1\n")
    found = {each.name: (each.description, each.override, each.origin) for each in fragments()}
    assert found["trainer/big"] == ("Eight GPUs", "trainer=big", "configs/trainer/big.yaml")
    assert found["attention/wide"] == ("", "", "configs/attention/wide.yaml")
    assert found["attention/naive"] == ("Mine", "", "configs/attention/naive.yaml")
    assert found["alone"] == ("", "", "configs/alone.yaml")
    said = [each.override for each in fragments() if each.override]
    assert "model=small" in said
    # What is said to work on the command line does.
    for override in said:
        load_experiment("quickstart", None, [override, "trainer.devices=1", "trainer.num_nodes=1"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# One line\nseed: 1\n", "One line"),
        ("# At 2.5 a second,\n# said so. And more.\nseed: 1\n", "At 2.5 a second, said so"),
        ("# 5, 9, 17, ...\n", "5, 9, 17, ..."),
        ("# A title\n#\n# A text.\n", "A title"),
        ("seed: 1  # not this\n# nor this\n", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_of_a_files_comment(text: str, sentence: str) -> None:
    write("file.yaml", text)
    assert first_sentence(Path("file.yaml")) == sentence


def test_every_state_of_a_run_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    unfinished = {"without": ("metrics.json", "samples")}
    make_run("done", 0)
    for variant, said in (("broken", "ValueError: no clip"), ("stopped", "Interrupted: Interrupted by SIGINT.")):
        log = make_run(variant, 0, **unfinished) / "log.txt"
        log.write_text(f"2026-01-01 12:00:00,123 ERROR ended by {said}\n")
    make_run("killed", 0, **unfinished)
    early = tmp_path / "study/early/0"
    early.mkdir(parents=True)
    (early / "log.txt").write_text("2026-01-01 12:00:00,123 ERROR ended by UserError: no such clip.\n")
    write_listing(tmp_path / "study", ["done", "never", "early"], [0])
    make_run("alone", 3, experiment="other")
    found = runs_below(tmp_path)
    assert [(run.experiment, run.variant, run.seed, run.phase) for run in found] == [
        ("other", "alone", 3, "finished"),
        ("study", "done", 0, "finished"),
        ("study", "never", 0, "missing"),
        ("study", "early", 0, "failed"),
        ("study", "broken", 0, "failed"),
        ("study", "killed", 0, "failed"),
        ("study", "stopped", 0, "interrupted"),
    ]
    notes = {run.variant: run.note for run in found}
    assert notes["broken"] == "ended by ValueError: no clip"
    assert notes["early"] == "ended by UserError: no such clip"
    assert notes["killed"].startswith("ended without a word")
    assert notes["never"] == ""
    assert notes["done"].startswith("20")


def test_an_ablation_of_which_no_run_has_begun_well_is_listed(tmp_path: Path) -> None:
    write_listing(tmp_path / "study", ["a", "b"], [0, 1])
    assert [(run.variant, run.seed, run.phase) for run in runs_below(tmp_path)] == [
        (variant, seed, "missing") for variant in "ab" for seed in (0, 1)
    ]


def test_a_run_at_work_tells_its_stage_its_step_and_whom_it_waits_for(
    make_run: MakeRun, make_stage: Callable[..., None], tmp_path: Path
) -> None:
    one, other, new = (make_run(name, 0, without=("metrics.json",)) for name in ("one", "other", "new"))
    stage = tmp_path / "stages/sequential-1"
    stage.mkdir(parents=True)
    (stage / "history.jsonl").write_text(json.dumps({"step": 30, "loss": 2.5}) + "\n")
    for run in (one, other):
        write_run_state(run, RunState("sequential", str(stage), 600))
    with held(one), held(stage), held(other, os.getppid()), held(new, os.getppid()):
        found = {run.variant: (run.phase, run.note) for run in runs_below(tmp_path)}
    assert found == {
        "one": ("at work", "sequential, step 30 of 600, loss 2.5000"),
        "other": ("at work", "sequential, waiting for one, seed 0"),
        "new": ("at work", "starting"),
    }


def test_a_finished_run_that_is_run_again_is_at_work(make_run: MakeRun, tmp_path: Path) -> None:
    with held(make_run("done", 0)):
        assert [run.phase for run in runs_below(tmp_path)] == ["at work"]
    assert [run.phase for run in runs_below(tmp_path)] == ["finished"]


def test_all_parts_are_listed_or_one() -> None:
    text = listed()
    assert all(title in text for title in ("Experiments (", "Fragments (", "There are no runs below runs."))
    assert listed("runs") == "There are no runs below runs.\n"
    assert "Fragments (" not in listed("experiments")


def test_runs_are_one_line_each_where_nobody_looks(make_run: MakeRun, tmp_path: Path) -> None:
    long = "ValueError: " + "so many words " * 20
    (make_run("broken", 4, without=("metrics.json",)) / "log.txt").write_text(
        f"2026-01-01 12:00:00,1 ERROR ended by {long}\n"
    )
    assert line_of(listed("runs", "--runs", str(tmp_path)), "study", "broken", "4", "failed").endswith("many words")


def test_json_holds_all_that_is_listed(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run("done", 0)
    content = json.loads(listed("--json", "--runs", str(tmp_path)))
    assert list(content) == ["experiments", "fragments", "runs"]
    (run,) = content["runs"]
    assert run == vars(FoundRun("study", "done", 0, folder, "finished", run["note"])) | {"folder": str(folder)}
    assert {each["name"]: each["variants"] for each in content["experiments"]}["quickstart"] == []
    assert list(json.loads(listed("fragments", "--json"))) == ["fragments"]


def test_another_word_is_answered_with_the_parts() -> None:
    result = CliRunner().invoke(app, ["list", "plugins"])
    assert result.exit_code == 2
    assert "experiments" in result.output
