"""What `cogvid search` refuses before its first trial, and where a search goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.cli import search as command
from cogvid.config.compose import load_experiment
from cogvid.config.schema import ExperimentConfig, SearchConfig
from cogvid.config.space import dimensions
from cogvid.errors import UserError
from cogvid.pipeline.lab import Lab
from cogvid.search.check import JOURNAL, check_pruning, check_space, open_folder
from cogvid.search.target import Target, target_of, trained_stages

EXPERIMENT = """\
base: [model/small, attention/local3d, frame_rate/lowest_fit, interpolation/recursive, data/shapes, trainer/cpu]
data: {name: shapes, options: {clips: 24, test_clips: 2, durations: [1, 2]}}
frame_tokenizer: {name: vqvae, options: {downsampling: 8}}
text: {length: 40}
plugins: [./mine.py]
stages:
  tokenizer: &stage {steps: 6, batch_size: 1, validate_every: 2}
  image_base: *stage
  sequential: *stage
  interpolation: {steps: 6, batch_size: 1}
generation: {frames: 9, samples: 2}
evaluation: {metrics: {oracle: shapes_oracle, mine: mine, copies: reconstruction}}
search:
  target: held_out.sequential
  space:
    model.layers: [1, 2]
"""
METRIC = """
import torch
import cogvid
from cogvid.interfaces.metric import Meaning
class Mine(cogvid.VideoMetric):
    protocol = {}
    meanings = {"warmth": Meaning("warmth", "of the colours")}
    def update(self, videos, captions, real):
        pass
    def compute(self):
        return {"warmth": torch.tensor(1.0, dtype=torch.float64)}
@cogvid.hookimpl
def register_metrics():
    return {"mine": Mine}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METRIC)
    (tmp_path / "lab.yaml").write_text(EXPERIMENT)
    return tmp_path / "lab.yaml"


def refused(*words: str) -> str:
    """What `cogvid search` says, which leaves nothing behind."""
    result = CliRunner().invoke(app, ["search", "lab.yaml", *words], env={"COLUMNS": "1000"})
    assert result.exit_code == 1, result.output
    assert not Path("runs").exists()
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The experiment's parts."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "mine.py").write_text(METRIC)
    (folder / "lab.yaml").write_text(EXPERIMENT)
    return Lab(load_experiment(folder / "lab.yaml", None, ["stages.image_base.validate_every=6"]).config)


def test_without_optuna_it_is_said_how_to_get_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert refused() == "Error: cogvid search needs Optuna, which is not installed: pip install 'cogvid[search]'."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search=null"], "lab.yaml says nothing of a search: add `search:` with a target"),
        (["model.heads=1,2"], "a search has one value for each key: say in search.space"),
        (["--jobs", "2", "--no-wait"], "--no-wait: jobs side by side wait for the stages"),
        (["search.target=loss"], "command line: search.target: loss is neither a held-out loss (held_out.STAGE) nor"),
        (["search.prune=interpolation"], "command line: search.prune: trials are pruned by held-out losses"),
        (["search.space.model.layers=[0]"], "search.space holds model.layers=0, which cannot be: model.layers: it"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_search_cannot_do_is_refused_before_the_first_trial(file: Path, words: list[str], message: str) -> None:
    pytest.importorskip("optuna", reason="Optuna is an extra: pip install 'cogvid[search]'")
    assert message in refused(*words)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("held_out.sequentail", "does not train. Did you mean 'sequential'?"),
        ("metrics.generated.orakle.all", "no metric in evaluation.metrics. Did you mean 'oracle'?"),
        ("metrics.linear.oracle.all", "is of no set of videos that a model makes"),
        ("metrics.generated.oracle.motions", "no value of shapes_oracle. Did you mean 'motion'?"),
        ("metrics.generated.oracle", "no value of shapes_oracle. Known: all"),
        ("metrics.generated.copies.psnr", "reconstruction does not score the set 'generated'"),
        ("metrics.generated.mine.warmth", "nobody declares what is better of metrics.generated.mine.warmth"),
    ],
)
def test_a_target_that_no_run_has_is_refused(lab: Lab, target: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        target_of(SearchConfig(target=target), lab)
    assert message in str(caught.value)


def test_the_direction_is_that_of_a_loss_or_of_the_meaning_of_a_metric(lab: Lab) -> None:
    def target(name: str, direction: str | None = None) -> Target:
        return target_of(SearchConfig(target=name, direction=direction), lab)

    held_out = "held_out.sequential"
    assert target(held_out) == Target(held_out, "sequential.held-out.loss", "lower", "sequential")
    assert target("held_out.tokenizer").key == "tokenizer.held-out.error"
    motion = "metrics.generated.oracle.motion"
    assert target(motion) == Target(motion, "generated.oracle.motion", "higher")
    assert target("metrics.generated.oracle.path_error").better == "lower"
    assert target("metrics.generated.mine.warmth", "higher").better == "higher"
    assert target(held_out, "lower").better == "lower"
    with pytest.raises(UserError, match="is better where it is lower: leave the direction out"):
        target(held_out, "higher")


def test_pruning_needs_held_out_losses_before_the_end(lab: Lab) -> None:
    def check(stage: str | None) -> None:
        check_pruning(SearchConfig(target="held_out.sequential", prune=stage), lab)

    check(None)
    check("sequential")
    with pytest.raises(UserError, match="validate_every is 0: there is none before the last of its 6 steps"):
        check("interpolation")
    with pytest.raises(UserError, match="validate_every is 6: there is none before the last of its 6 steps"):
        check("image_base")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("model.layers: {low: 0, high: 2}", "model.layers=0, which cannot be: model.layers: it must be at least 1"),
        ("model.layers: [2, x]", "model.layers=x, which cannot be: model.layers: Value 'x'"),
        ("model: {width: [96, 64], heads: [2, 3]}", "model.width=64 model.heads=3, which cannot be: model.heads: 3"),
        ("attention: [naive, nave]", "attention=nave, which cannot be: attention"),
        ("attention.options.extend: [[1, 1, 1]]", "no such option. Did you mean 'extent'?"),
        ("frame_tokenizer.options.codes: {low: 0, high: 3}", "frame_tokenizer.options.codes=0, which cannot be"),
    ],
)
def test_values_of_the_space_that_cannot_be_are_refused_where_they_stand(file: Path, space: str, message: str) -> None:
    file.write_text(EXPERIMENT.replace("model.layers: [1, 2]", space))
    resolved = load_experiment("lab.yaml", None, [])
    assert resolved.config.search is not None
    found = dimensions(resolved.config.search.space, resolved.provenance)
    with pytest.raises(UserError) as caught:
        check_space(resolved, None, [], found)
    assert message in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:16: search.space holds ")


def test_the_stages_that_are_trained_are_those_of_the_experiment(file: Path, lab: Lab) -> None:
    changes = ["interpolation=hold", "stages.tokenizer.weights=a", "stages.image_base.weights=b"]
    few = Lab(load_experiment("lab.yaml", None, changes).config)
    assert trained_stages(lab) == ["tokenizer", "image_base", "sequential", "interpolation"]
    assert trained_stages(few) == ["sequential"]
    with pytest.raises(UserError, match="does not train"):
        target_of(SearchConfig(target="held_out.interpolation"), few)


def test_a_search_goes_on_with_more_trials_and_in_no_other_space_or_experiment(file: Path, tmp_path: Path) -> None:
    def opened(*changes: str) -> Path:
        config = load_experiment("lab.yaml", None, changes).config
        return open_folder(tmp_path / "runs" / "lab" / "search", config, "trial-*")

    journal = opened()
    assert journal == tmp_path / "runs" / "lab" / "search" / JOURNAL
    assert opened("search.trials=40", "trainer.log_every=3") == journal
    for changes, named in (
        (["search.space.model.layers=[1,3]"], "search.space.model.layers was [1, 2], is now [1, 3]"),
        (["search.space.model.heads=[1]"], "search.space.model.heads was None, is now [1]"),
        (["search.target=held_out.tokenizer"], "search.target was held_out.sequential"),
        (["stages.sequential.steps=7"], "stages.sequential.steps was 6, is now 7"),
        (["seed=1"], "seed was 0, is now 1"),
    ):
        with pytest.raises(UserError) as caught:
            opened(*changes)
        assert f"search holds another search: {named}" in str(caught.value)


def test_runs_of_a_search_that_is_gone_are_not_taken_for_those_of_a_new_one(tmp_path: Path) -> None:
    config = ExperimentConfig(name="lab", search=SearchConfig(target="held_out.sequential", space={"seed": [0]}))
    (tmp_path / "trial-000").mkdir()
    with pytest.raises(UserError, match="trial-000 is a run of an earlier search"):
        open_folder(tmp_path / "search", config, "trial-*")
    assert not (tmp_path / "search").exists()
