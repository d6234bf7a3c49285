"""What values mean in YAML and on the command line, and that a saved configuration has the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvid.config import Resolved, differences, expand_sweeps, load_experiment, to_yaml
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.config.sources import _FastLoader, _Loader, _parsed, parse_yaml, shipped
from cogvid.errors import UserError

Write = Callable[..., Path]
Load = Callable[..., Resolved]


def test_the_command_line_takes_yaml_values(load_lab: Load) -> None:
    config = load_lab("", "stages.sequential.betas=[0.5, 0]", "trainer.sample_prompts=[a, 'b, c']").config
    assert config.stages.sequential.betas == [0.5, 0.0]
    assert config.trainer.sample_prompts == ["a", "b, c"]
    assert load_lab("description: x", "description=").config.description == ""
    assert load_lab("", "description=a=b").config.description == "a=b"


def test_yaml_scalars_mean_what_they_say(load_lab: Load) -> None:
    text = """
    attention:
      name: x
      options: {mode: on, answer: no, time: 12:30:00, rate: 2e-4, n: 010, day: 2022-05-29, none: ~, yes: true}
    """
    options = load_lab(text).config.attention.options
    assert options == {
        "mode": "on",
        "answer": "no",
        "time": "12:30:00",
        "rate": 2e-4,
        "n": "010",
        "day": "2022-05-29",
        "none": None,
        "yes": True,
    }


def test_libyaml_reads_what_the_loader_that_explains_mistakes_reads() -> None:
    files = [path for folder in ("configs", "experiments") for path in (shipped() / folder).rglob("*.yaml")]
    texts = [path.read_text() for path in files]
    texts += [
        "a: [on, no, 12:30, 2e-4, 010, 1_000, 0x1, .5, -.inf, ~, null, true, True, yes]\nb:\n  - &x {c: 1}\n  - *x\n"
    ]
    assert len(texts) > 30
    for text in texts:
        assert _parsed(text, "file", _FastLoader) == _parsed(text, "file", _Loader)


def test_values_may_refer_to_other_keys(load_lab: Load) -> None:
    text = "video: {size: 48}\nattention: {options: {width: '${video.size}'}}"
    config = load_lab(text, "model.width=${attention.options.width}").config
    assert (config.attention.options["width"], config.model.width) == (48, 48)


def test_the_saved_configuration_loads_back_to_the_same(write_yaml: Write, load_lab: Load) -> None:
    text = """
    plugins: [./mine.py, some.module]
    model: {positions: rotary, heads: 4}
    description: "on: [5, 1e3] 010 # no comment"
    evaluation: {metrics: {fvd: {name: fvd, options: {text: "yes", nested: {a: [1, {b: null}], f: 1.0e-7}}}}}
    variants: {v: {seed: 9}}
    """
    resolved = load_lab(text, "model.width=${video.size}", variant="v")
    saved = write_yaml("runs/config.yaml", resolved.to_yaml())
    assert "positions: rotary" in resolved.to_yaml()
    assert load_experiment(saved).config == resolved.config
    assert differences(saved, resolved.config) == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("on1e.~-:'#é\n", max_size=5)


OPTIONS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("aby"), inner, max_size=3),
    max_leaves=6,
)


@given(options=st.dictionaries(st.sampled_from(["on", "x", "no"]), OPTIONS))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_option_survives_saving(options: dict[str, Any]) -> None:
    config = ExperimentConfig(name="lab", attention=ComponentConfig("naive", options))
    saved = parse_yaml(to_yaml(config), "saved")[0]
    assert saved["attention"]["options"] == options


def test_differences_name_key_old_and_new(write_yaml: Write, load_lab: Load) -> None:
    resolved = load_lab("model: {layers: 2}")
    saved = write_yaml("runs/config.yaml", resolved.to_yaml() + "gone: 1\n")
    changed = replace(resolved.config, attention=ComponentConfig("naive"))
    assert differences(saved, changed) == [
        ("attention.name", "local3d", "naive"),
        ("attention.options", None, {}),
        ("attention.options.bias", True, None),
        ("attention.options.extent", [3, 2, 2], None),
        ("gone", 1, None),
    ]


@pytest.mark.parametrize(
    ("overrides", "runs"),
    [
        ([], [[]]),
        (["seed=1"], [["seed=1"]]),
        (
            ["seed=1,2", "a=x, y"],
            [["seed=1", "a=x"], ["seed=1", "a=y"], ["seed=2", "a=x"], ["seed=2", "a=y"]],
        ),
        (["a=[1,2]"], [["a=[1,2]"]]),
        (["a=[1,2],[3,4]"], [["a=[1,2]"], ["a=[3,4]"]]),
        (["a='1,2'", 'b="1,2"'], [["a='1,2'", 'b="1,2"']]),
        (["a={x: 1, y: [2, 3]}"], [["a={x: 1, y: [2, 3]}"]]),
        (["a=b=1,2"], [["a=b=1"], ["a=2"]]),
        (["a="], [["a="]]),
    ],
)
def test_sweeps_are_all_combinations_of_values_between_commas(overrides: list[str], runs: list[list[str]]) -> None:
    assert expand_sweeps(overrides) == runs


@pytest.mark.parametrize("override", ["seed", "seed=1,,2", "seed=1,"])
def test_a_malformed_sweep_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="command line: "):
        expand_sweeps([override])


def test_a_size_is_one_number_or_height_and_width_from_the_file_to_the_saved_run(
    write_yaml: Write, load_lab: Load
) -> None:
    assert load_lab("video: {size: 48}").config.video.sides == (48, 48)
    sweep = expand_sweeps(["video.size=[32,48]", "seed=0,1"])
    assert sweep == [["video.size=[32,48]", "seed=0"], ["video.size=[32,48]", "seed=1"]]
    resolved = load_lab("video: {size: 48}", *sweep[0])
    assert (resolved.config.video.sides, resolved.provenance["video.size"]) == ((32, 48), "command line")
    saved = write_yaml("runs/config.yaml", resolved.to_yaml())
    assert load_experiment(saved).config == resolved.config
    assert not differences(saved, resolved.config)
    assert [each[:1] for each in differences(saved, load_lab("video: {size: 48}").config)] == [("video.size",)]
    squares = expand_sweeps(["video.size=32,48"])
    assert [load_lab("", *each).config.video.sides for each in squares] == [(32, 32), (48, 48)]


def test_the_size_of_squares_is_saved_as_one_number() -> None:
    assert "\n  size: 32\n" in load_experiment("quickstart").to_yaml()


@pytest.mark.parametrize("size", ["64", "[32,48]"])
def test_shapes_are_drawn_at_the_size_of_the_frames(size: str) -> None:
    config = load_experiment("quickstart", None, [f"video.size={size}"]).config
    assert config.data.options["size"] == config.video.size
