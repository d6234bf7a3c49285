"""What an experiment's file may say of a search, and what is refused where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from cogvid.cli.run import load_run
from cogvid.config import Resolved, load_experiment
from cogvid.config.schema import SearchConfig
from cogvid.config.space import Choices, Range, dimensions
from cogvid.errors import UserError

STAGE = {"steps": 10, "batch_size": 2}
COMPLETE: dict[str, Any] = {
    "data": "shapes",
    "frame_rate": "lowest_fit",
    "frame_tokenizer": "vqvae",
    "text_tokenizer": "bpe",
    "attention": {"name": "local3d", "options": {"extent": [3, 2, 2]}},
    "interpolation": "recursive",
    "stages": dict.fromkeys(["tokenizer", "image_base", "sequential", "interpolation"], STAGE),
}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("complete.yaml").write_text(json.dumps(COMPLETE))


def load(text: str, *changes: str, variant: str | None = None) -> Resolved:
    Path("lab.yaml").write_text("base: [complete]\n" + dedent(text))
    return load_experiment("lab.yaml", variant, changes)


def searched(text: str, *changes: str, variant: str | None = None) -> SearchConfig:
    search = load(text, *changes, variant=variant).config.search
    assert search is not None
    return search


def space(text: str, *changes: str, variant: str | None = None) -> list[Choices | Range]:
    """The dimensions of a space that begins in line 6."""
    return dimensions(
        searched(SEARCH + "".join(f"    {line}\n" for line in text.split("; ")), *changes, variant=variant).space
    )


SEARCH = "search:\n  target: held_out.sequential\n  trials: 3\n  space:\n"


def test_a_space_has_choices_and_ranges_by_the_full_key_of_the_option() -> None:
    found = space(
        "stages.sequential.muon_lr: {low: 1e-3, high: 3e-2, log: true}; model.width: [32, 64]; "
        "model.layers: {low: 2, high: 6, step: 2}; attention.options.extent: [[3, 2, 2], [1, 1, 1]]; "
        "stages.sequential.ema: {low: 0, high: 0.9}; "
        "frame_tokenizer.options.codes: {low: 16, high: 64}"
    )
    assert found == [
        Range("stages.sequential.muon_lr", 1e-3, 3e-2, log=True),
        Range("stages.sequential.ema", 0.0, 0.9),
        Choices("model.width", (32, 64)),
        Range("model.layers", 2, 6, step=2),
        Choices("attention.options.extent", ([3, 2, 2], [1, 1, 1])),
        Range("frame_tokenizer.options.codes", 16, 64),
    ]


def test_a_choice_may_be_a_component_or_name_a_fragment() -> None:
    other = {"name": "local3d", "options": {"extent": [1, 1, 1]}}
    assert space(f"attention: [naive, {json.dumps(other)}]") == [Choices("attention", ("naive", other))]
    assert space("trainer: [cpu, gpu]") == [Choices("trainer", ("cpu", "gpu"))]


def test_keys_may_be_nested_and_the_command_line_and_variants_change_them() -> None:
    text = "model: {width: [32, 64]}; stages.sequential.muon_lr: {low: 0.001, high: 0.1}"
    nested = space(text, "search.space.stages.sequential.muon_lr.low=0.01", "search.space.model.width=[48]")
    assert nested == [Choices("model.width", (48,)), Range("stages.sequential.muon_lr", 0.01, 0.1)]
    more = "variants:\n  deep: {search: {trials: 9, space: {model.layers: [3, 4]}}}\n"
    deep = searched(SEARCH + "    model.width: [32]\n" + more, variant="deep")
    assert (deep.trials, dimensions(deep.space)) == (
        9,
        [Choices("model.width", (32,)), Choices("model.layers", (3, 4))],
    )


def test_a_resolved_search_loads_as_itself_and_its_keys_know_where_they_were_said() -> None:
    resolved = load(SEARCH + "    model.width: [32, 64]\n    stages.sequential.ema: {low: 0, high: 0.5}\n")
    assert resolved.provenance["search.space.model.width"] == "lab.yaml:6"
    assert resolved.provenance["search.space.stages.sequential.ema.low"] == "lab.yaml:7"
    Path("again.yaml").write_text(resolved.to_yaml())
    assert load_experiment("again.yaml", None, ()).config == resolved.config


def test_no_run_has_a_search() -> None:
    load(SEARCH + "    model.width: [32, 64]\n")
    assert load_run("lab.yaml", None, []).config.search is None


def test_values_of_a_range_are_listed_where_they_are_few() -> None:
    assert Range("a", 2, 6, step=2).values == (2, 4, 6)
    assert Range("a", 1, 4).values == (1, 2, 3, 4)
    assert Range("a", 0.5, 1.0, step=0.25).values == (0.5, 0.75, 1.0)
    assert Range("a", 0.5, 1.0).values == (0.5, 1.0)
    assert Range("a", 1, 10**6).values == (1, 10**6)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model.widht: [1]", "model.widht is no option of an experiment. Did you mean model.width"),
        ("muon_lr: [0.1]", "muon_lr is no option of an experiment. Did you mean stages.tokenizer.muon_lr"),
        ("model.width: 32", "model.width has one value, 32; a search needs choices"),
        ("model: small", "model has one value, 'small'"),
        ("model.width: {step: 2}", "a range needs numbers for low and high"),
        ("model.width: []", "model.width needs choices that differ"),
        ("model.width: [32, 32]", "model.width needs choices that differ"),
        ("seed: [0, 1]", "seed says which runs there are"),
        ("search.trials: [1]", "search says which runs there are"),
        ("model.width: {low: 1.5, high: 3}", "model.width is a whole number"),
        ("model.width: {low: 9, high: 3}", "low must be less than high, got 9 and 3"),
        ("model.width: {low: 1, high: 8, step: 2}", "step 2 does not lead from 1 to 8"),
        ("model.width: {low: 1, high: 9, step: 0}", "step 0 does not lead from 1 to 9"),
        ("model.width: {low: 1, heigh: 9}", "a range has no 'heigh'. Did you mean 'high'?"),
        ("model.width: {low: 1, high: true}", "a range needs numbers"),
        ("stages.sequential.muon_lr: {low: 0, high: 1, log: true}", "has low above 0 and no step"),
        ("stages.sequential.muon_lr: {low: .nan, high: 1}", "low must be less than high"),
        ("model.positions: {low: 0, high: 1}", "model.positions is no number: give a list of choices"),
        ("frame_tokenizer.options.codes: {low: 8}", "a range needs numbers for low and high"),
    ],
)
def test_what_is_no_space_is_refused_where_it_stands(line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        space(line)
    assert message in str(caught.value)
    assert str(caught.value).startswith("lab.yaml:6: search.space: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SEARCH.replace("  space:\n", ""), "search.space: nothing is to be searched"),
        (SEARCH + "    model.width: [1]\n    model: {width: [2]}\n", "the key search.space.model is given twice"),
        (SEARCH + "    model: {width: [2]}\n    model.width: [1]\n", "the key search.space.model.width is given twice"),
        (SEARCH + "    model: [small]\n    model.width: [1]\n", "the key search.space.model.width is given twice"),
        ("model.width: 3\n", "the key 'model.width' has a dot"),
        ("search: {space: {model.width: [1]}}\n", "no value for search.target"),
        (SEARCH.replace("trials: 3", "trails: 3"), "unknown key 'search.trails'. Did you mean search.trials"),
        (SEARCH.replace("trials: 3", "trials: 0"), "search.trials: it must be from 1 to 100000, got 0"),
        (SEARCH.replace("trials: 3", "prune: data"), "search.prune: it must be 'tokenizer' or 'image_base'"),
        (SEARCH.replace("trials: 3", "direction: up"), "search.direction: it must be 'lower' or 'higher', got 'up'"),
    ],
)
def test_a_search_is_checked_as_all_sections_are(text: str, message: str) -> None:
    if text.endswith("space:\n"):
        text += "    model.width: [1]\n"
    with pytest.raises(UserError) as caught:
        load(text)
    assert message in str(caught.value)
