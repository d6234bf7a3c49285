"""An experiment is composed from files, a variant and the command line, and every value knows its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvid.config import Resolved, differences, expand_sweeps, experiment_names, load_experiment, to_yaml
from cogvid.config.schema import ComponentConfig, ExperimentConfig, InterpolationStart, Positions
from cogvid.config.sources import _FastLoader, _Loader, _parsed, parse_yaml, shipped
from cogvid.errors import UserError

STAGE = {"steps": 10, "batch_size": 2}
COMPLETE: dict[str, Any] = {
    "data": "shapes",
    "frame_rate": "lowest_fit",
    "frame_tokenizer": "vqvae",
    "text_tokenizer": "bpe",
    "attention": {"name": "local3d", "options": {"extent": [3, 2, 2], "bias": True}},
    "interpolation": "recursive",
    "stages": dict.fromkeys(["tokenizer", "image_base", "sequential", "interpolation"], STAGE),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a YAML file into an empty project, which is the current folder; fragments/complete has all."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    write_file("configs/complete.yaml", json.dumps(COMPLETE))
    return write_file


def load(write: Write, text: str, *overrides: str, variant: str | None = None) -> Resolved:
    """Load an experiment that has everything and says `text`."""
    write("experiments/lab.yaml", "base: [complete]\n" + dedent(text))
    return load_experiment("lab", variant, overrides)


def error_of(write: Write, text: str, *overrides: str, variant: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load(write, text, *overrides, variant=variant)
    return str(caught.value)


def test_a_part_of_an_experiment_given_by_name_is_the_fragment_of_that_name(write: Write) -> None:
    write("configs/trainer/many.yaml", "trainer: {devices: 4, precision: bf16-mixed}\nvideo: {size: 64}\n")
    loaded = load(
        write, "trainer: {log_every: 7}\nstages: {tokenizer: {batch_size: 8}}", "trainer=many", "trainer.devices=1"
    )
    trainer = loaded.config.trainer
    assert (trainer.devices, trainer.precision, trainer.log_every) == (1, "bf16-mixed", 7)
    assert loaded.config.video.size == 64
    assert "many.yaml" in loaded.provenance["trainer.precision"]
    message = error_of(write, "", "trainer=manny")
    assert "command line: 'trainer=manny'" in message
    assert "there is no fragment 'trainer/manny'" in message
    assert "trainer/many" in message


def test_bases_then_the_file_then_the_variant_then_the_command_line(write: Write) -> None:
    for number, name in enumerate(["one", "two"]):
        write(
            f"configs/{name}.yaml",
            f"model: {{layers: {number}, width: {number}, heads: {number}}}\nseed: {number}\n",
        )
    text = """
    model: {heads: 10}
    variants:
      wide: {model: {width: 20}, video: {size: 64}}
    """
    write("experiments/lab.yaml", "base: [complete, one, two]\n" + dedent(text))
    config = load_experiment("lab", "wide", ["video.size=128"]).config
    assert (config.seed, config.model.layers, config.model.heads) == (1, 1, 10)
    assert (config.model.width, config.video.size) == (20, 128)


def test_the_config_is_a_tree_of_dataclasses_with_enumerations(write: Write) -> None:
    config = load(write, "model: {positions: rotary}").config
    assert type(config) is ExperimentConfig
    assert config.model.positions is Positions.rotary
    assert config.stages.interpolation.start is InterpolationStart.sequential
    assert config.attention == ComponentConfig("local3d", {"extent": [3, 2, 2], "bias": True})
    assert type(config.attention.options) is dict


def test_name_and_variant_are_those_of_file_and_choice(write: Write) -> None:
    text = "variants: {a: {seed: 1}, b: }"
    assert (load(write, text).config.name, load(write, text).config.variant) == ("lab", "default")
    assert load(write, text, variant="default").config == load(write, text).config
    resolved = load(write, text, variant="b")
    assert (resolved.config.variant, resolved.variants, resolved.path.name) == ("b", ["a", "b"], "lab.yaml")


def test_every_value_knows_where_it_was_said(write: Write) -> None:
    text = """
    model:
      layers: 3
    variants:
      v:
        video: {size: 8}
    """
    sources = load(write, text, "seed=4", variant="v").provenance
    assert sources["model.layers"] == "experiments/lab.yaml:4"
    assert sources["video.size"] == "experiments/lab.yaml:7 (variant v)"
    assert sources["attention.options.extent"] == "configs/complete.yaml:1"
    assert sources["seed"] == "command line"
    assert sources["model.width"] == "default"
    assert sources["name"] == "experiments/lab.yaml"


def test_a_fragment_may_have_bases_of_its_own(write: Write) -> None:
    write("configs/model/deep.yaml", "base: model/wide\nmodel: {layers: 30}\n")
    write("configs/model/wide.yaml", "model: {layers: 1, width: 99}\n")
    model = load(write, "variants: {deep: {base: [model/deep]}}", variant="deep").config.model
    assert (model.layers, model.width) == (30, 99)


def test_variants_of_a_base_are_inherited(write: Write) -> None:
    write("configs/ablation.yaml", "variants: {small: {model: {layers: 1, width: 2}}}\n")
    write(
        "experiments/lab.yaml",
        "base: [complete, ablation]\nvariants: {small: {model: {width: 3}}, other: }\n",
    )
    resolved = load_experiment("lab", "small")
    assert resolved.variants == ["small", "other"]
    assert (resolved.config.model.layers, resolved.config.model.width) == (1, 3)


def test_options_are_replaced_when_the_name_changes(write: Write) -> None:
    assert load(write, "attention: {name: naive}").config.attention == ComponentConfig("naive", {})
    other = load(write, "attention: {name: swin_ar, options: {window: [4, 4]}}").config.attention
    assert other.options == {"window": [4, 4]}


def test_options_are_merged_while_the_name_stays(write: Write) -> None:
    for text in ["attention: {options: {bias: false}}", "attention: {name: local3d, options: {bias: false}}"]:
        assert load(write, text).config.attention.options == {"extent": [3, 2, 2], "bias": False}


def test_options_of_nested_components_are_replaced_too(write: Write) -> None:
    text = """
    stages: {interpolation: {attention: {name: local3d, options: {extent: [1, 1, 1]}}}}
    evaluation: {metrics: {score: {name: fvd, options: {extractor: a}}, kept: {name: fvd, options: {x: 1}}}}
    """
    overrides = ["stages.interpolation.attention.name=naive", "evaluation.metrics.score=inception_score"]
    config = load(write, text, *overrides).config
    assert config.stages.interpolation.attention == ComponentConfig("naive", {})
    assert config.evaluation.metrics["score"] == ComponentConfig("inception_score", {})
    assert config.evaluation.metrics["kept"].options == {"x": 1}


def test_a_component_may_be_given_by_its_name_alone(write: Write) -> None:
    assert load(write, "attention: naive").config.attention == ComponentConfig("naive")
    assert load(write, "", "attention=naive").config.attention == ComponentConfig("naive")
    stage = load(write, "", "stages.interpolation.attention=naive").config.stages.interpolation
    assert stage.attention == ComponentConfig("naive")


def test_an_optional_component_may_be_null(write: Write) -> None:
    text = "stages: {interpolation: {attention: naive}}"
    assert load(write, text, "stages.interpolation.attention=null").config.stages.interpolation.attention is None


def test_the_command_line_takes_yaml_values(write: Write) -> None:
    config = load(write, "", "stages.sequential.betas=[0.5, 0]", "trainer.sample_prompts=[a, 'b, c']").config
    assert config.stages.sequential.betas == [0.5, 0.0]
    assert config.trainer.sample_prompts == ["a", "b, c"]
    assert load(write, "description: x", "description=").config.description == ""
    assert load(write, "", "description=a=b").config.description == "a=b"


def test_yaml_scalars_mean_what_they_say(write: Write) -> None:
    text = """
    attention:
      name: x
      options: {mode: on, answer: no, time: 12:30:00, rate: 2e-4, n: 010, day: 2022-05-29, none: ~, yes: true}
    """
    options = load(write, text).config.attention.options
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


def test_values_may_refer_to_other_keys(write: Write) -> None:
    text = "video: {size: 48}\nattention: {options: {width: '${video.size}'}}"
    config = load(write, text, "model.width=${attention.options.width}").config
    assert (config.attention.options["width"], config.model.width) == (48, 48)


def test_the_saved_configuration_loads_back_to_the_same(write: Write) -> None:
    text = """
    plugins: [./mine.py, some.module]
    model: {positions: rotary, heads: 4}
    description: "on: [5, 1e3] 010 # no comment"
    evaluation: {metrics: {fvd: {name: fvd, options: {text: "yes", nested: {a: [1, {b: null}], f: 1.0e-7}}}}}
    variants: {v: {seed: 9}}
    """
    resolved = load(write, text, "model.width=${video.size}", variant="v")
    saved = write("runs/config.yaml", resolved.to_yaml())
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


def test_differences_name_key_old_and_new(write: Write) -> None:
    resolved = load(write, "model: {layers: 2}")
    saved = write("runs/config.yaml", resolved.to_yaml() + "gone: 1\n")
    changed = replace(resolved.config, attention=ComponentConfig("naive"))
    assert differences(saved, changed) == [
        ("attention.name", "local3d", "naive"),
        ("attention.options", None, {}),
        ("attention.options.bias", True, None),
        ("attention.options.extent", [3, 2, 2], None),
        ("gone", 1, None),
    ]


def test_plugin_files_are_relative_to_the_file_that_names_them(write: Write, tmp_path: Path) -> None:
    resolved = load(write, "plugins: [./mine.py, a.module]")
    assert resolved.config.plugins == [str(tmp_path / "experiments/mine.py"), "a.module"]
    assert resolved.provenance["plugins"] == "experiments/lab.yaml:2 (./mine.py, a.module)"
    assert load(write, "", "plugins=[mine.py]").config.plugins == [str(tmp_path / "mine.py")]


def test_plugins_of_bases_the_file_a_variant_and_the_command_line_add_up(write: Write, tmp_path: Path) -> None:
    write("configs/attention/wide.yaml", "plugins: [./wide.py, shared]\n")
    write("configs/metric.yaml", "plugins: [some.metric]\n")
    text = """
    base: [complete, attention/wide, metric]
    plugins: [./own.py, shared, own.module, own.module]
    variants:
      deep: {plugins: [./deep.py, some.metric]}
      odd: {base: [metric]}
    """
    write("experiments/lab.yaml", text)
    own = [
        str(tmp_path / "configs/attention/wide.py"),
        "shared",
        "some.metric",
        str(tmp_path / "experiments/own.py"),
        "own.module",
    ]
    places = [
        "configs/attention/wide.yaml:1 (./wide.py, shared)",
        "configs/metric.yaml:1 (some.metric)",
        "experiments/lab.yaml:3 (./own.py, shared, own.module, own.module)",
    ]
    deep, here = str(tmp_path / "experiments/deep.py"), str(tmp_path / "here.py")
    in_variant = "experiments/lab.yaml:5 (variant deep) (./deep.py, some.metric)"
    for variant, changes, names, said in (
        (None, [], own, places),
        ("odd", [], own, places),
        ("deep", [], [*own, deep], [*places, in_variant]),
        ("deep", ["plugins=[here.py]"], [*own, deep, here], [*places, in_variant, "command line (here.py)"]),
    ):
        resolved = load_experiment("lab", variant, changes)
        assert resolved.config.plugins == names
        assert resolved.provenance["plugins"] == ", ".join(said)
        assert load_experiment(write("runs/config.yaml", resolved.to_yaml())).config == resolved.config


def test_an_empty_list_of_plugins_empties_what_was_named_before(write: Write, tmp_path: Path) -> None:
    resolved = load(write, "plugins: [a.module]", "plugins=[]", "plugins=[./b.py]")
    assert resolved.config.plugins == [str(tmp_path / "b.py")]
    assert resolved.provenance["plugins"] == "command line (./b.py)"
    assert load(write, "plugins: [a.module]", "plugins=[]").provenance["plugins"] == "command line"


def test_fragments_are_found_beside_the_experiment_from_any_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("experiments/lab.yaml", "base: [complete, beside, ./sub/explicit.yaml]\n")
    write("experiments/beside.yaml", "seed: 5\n")
    write("experiments/sub/explicit.yaml", "model: {layers: 7}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_experiment(path).config
    assert (config.seed, config.model.layers) == (5, 7)


def test_shipped_fragments_are_found_from_any_folder(write: Write) -> None:
    config = load(write, "variants: {v: {base: [attention/swin_ar]}}", variant="v").config
    assert config.attention.name == "swin_ar"


def test_a_project_may_shadow_a_shipped_fragment(write: Write) -> None:
    write("configs/attention/swin_ar.yaml", "attention: naive\n")
    assert load(write, "variants: {v: {base: [attention/swin_ar]}}", variant="v").config.attention.name == "naive"


def test_experiments_are_listed_by_name(write: Write) -> None:
    write("experiments/mine/first.yaml", "seed: 1\n")
    assert "mine/first" in experiment_names()


@pytest.mark.parametrize("kind", ["frame_rate", "interpolation", "attention"])
def test_every_shipped_component_fragment_sets_its_component(write: Write, kind: str) -> None:
    fragments = sorted((shipped() / "configs" / kind).glob("*.yaml"))
    assert fragments
    for fragment in fragments:
        variants = f"variants: {{v: {{base: [{kind}/{fragment.stem}]}}}}"
        assert getattr(load(write, variants, variant="v").config, kind).name == fragment.stem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modle: {layers: 1}", "experiments/lab.yaml:2: unknown key 'modle'. Did you mean model?"),
        (
            "model:\n  widht: 1",
            "experiments/lab.yaml:3: unknown key 'model.widht'. Did you mean model.width? Keys of model: ",
        ),
        ("layers: 1", "unknown key 'layers'. Did you mean model.layers?"),
        ("attention: {naem: x}", "unknown key 'attention.naem'. Did you mean attention.name?"),
        ("evaluation: {metrics: {fvd: {option: {}}}}", "unknown key 'evaluation.metrics.fvd.option'"),
        ("_target_: os.system", "unknown key '_target_'"),
        ("video: {size: big}", "experiments/lab.yaml:2: video.size: it must be a number of pixels for both sides"),
        ("seed: 1.5", "experiments/lab.yaml:2: seed: Value '1.5'"),
        (
            "model: {positions: rotery}",
            "model.positions: Invalid value 'rotery', expected one of [learned, rotary]",
        ),
        ("stages:\n  sequential: {betas: [1, x]}", "lab.yaml:3: stages.sequential.betas[1]: Value 'x'"),
        ("model: 3", "experiments/lab.yaml:2: model must be a mapping of keys to values, got 3"),
        ("model:", "experiments/lab.yaml:2: model has no value"),
        ("attention: {options: }", "attention.options has no value"),
        ("attention: [naive]", "attention must be a mapping of keys to values, got ['naive']"),
        ("plugins: ./mine.py", "plugins must be a list such as [a, b], got './mine.py'"),
        (
            "plugins: [[a]]",
            "lab.yaml:2: plugins: it must be a list of modules and files, such as [a, ./b.py], got [['a']]",
        ),
        ("plugins: ${name}", "lab.yaml:2: plugins: it must be a list of modules and files"),
        (
            "video: {size: 1}\nvideo: {size: 2}",
            "lab.yaml:3: the key video is given twice; the first is at experiments",
        ),
        ("model: {layers: 1, layers: 2}", "the key model.layers is given twice"),
        ("1: 2", "the key 1 must be text"),
        ("model.layers: 2", "lab.yaml:2: the key 'model.layers' has a dot"),
        ("a: [1\nb: 2", "lab.yaml:3: not valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []", "seed"),
        ("seed: !!python/name:os.getcwd ", "lab.yaml:2: not valid YAML: could not determine a constructor"),
        ("variants: [a]", "lab.yaml:2: variants must be a mapping"),
        ("variants: {a: 3}", "lab.yaml:2: variants.a must be a mapping"),
        ("variants: {default: {}}", "'default' is the experiment itself"),
        ("variants: {a/b: {}}", "'a/b' names a folder"),
        ("name: ../up", "lab.yaml:2: name: '../up' names a folder"),
        (
            "model: {width: '${video.sise}'}",
            "lab.yaml:2: model.width: Interpolation key 'video.sise' not found",
        ),
        ("model: {width: '${video'}", "lab.yaml:2: model.width: "),
        ("description: '${oc.env:HOME}'", "lab.yaml:2: description calls a resolver"),
        ("attention: {options: {a: ['${oc.env:HOME}']}}", "attention.options.a calls a resolver"),
    ],
)
def test_a_mistake_in_a_file_names_place_key_and_cause(write: Write, text: str, message: str) -> None:
    assert message in error_of(write, text)


def test_a_mistake_in_the_chosen_variant_names_the_variant(write: Write) -> None:
    text = "variants: {v: {seed: x}, w: {variants: {}}}"
    assert "experiments/lab.yaml:2 (variant v): seed: Value 'x'" in error_of(write, text, variant="v")
    assert "experiments/lab.yaml:2 (variant w): unknown key 'variants'" in error_of(write, text, variant="w")


def test_a_mistake_in_a_fragment_names_the_fragment(write: Write) -> None:
    write("configs/wrong.yaml", "\nseed: x\n")
    write("experiments/lab.yaml", "base: [wrong, complete]\nseed: 1\n")
    with pytest.raises(UserError, match=r"^configs/wrong\.yaml:2: seed: "):
        load_experiment("lab")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "command line: 'seed' is not key=value; write for example seed=1"),
        ("=3", "command line: '=3' is not key=value"),
        ("model..layers=3", "is not key=value"),
        ("modle.layers=3", "command line: unknown key 'modle'. Did you mean model?"),
        ("layers=3", "command line: unknown key 'layers'. Did you mean model.layers?"),
        ("seed=1,2", "command line: seed: Value '1,2'"),
        ("seed=", "command line: seed: Value ''"),
        ("seed=[1", "command line, seed=[1:1: not valid YAML"),
        ("variant=v", "'variant=v' would only rename; choose a variant with --variant"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(write: Write, override: str, message: str) -> None:
    assert message in error_of(write, "variants: {v: {seed: 3}}", override)


def test_missing_values_are_all_named(write: Write) -> None:
    write("experiments/lab.yaml", "evaluation: {metrics: {fvd: {options: {a: 1}}}}\nattention: {name: naive}\n")
    with pytest.raises(UserError) as caught:
        load_experiment("lab")
    message = str(caught.value)
    assert message.startswith("experiments/lab.yaml: no value for data.name, evaluation.metrics.fvd.name, ")
    assert "stages.tokenizer.steps" in message
    assert "attention.name" not in message


def test_an_unknown_variant_is_answered_with_the_variants(write: Write) -> None:
    message = error_of(write, "variants: {naive: {seed: 1}, wide: {seed: 2}}", variant="nave")
    assert message == "experiments/lab.yaml has no variant 'nave'. Its variants: naive, wide."


def test_an_unknown_experiment_is_answered_with_the_nearest(write: Write) -> None:
    write("experiments/laboratory.yaml", "seed: 1\n")
    with pytest.raises(
        UserError, match=r"no experiment 'laborotory'\. Did you mean 'laboratory'\? Known: .*laboratory"
    ):
        load_experiment("laborotory")


def test_an_unknown_fragment_is_answered_with_the_nearest(write: Write) -> None:
    write("experiments/lab.yaml", "seed: 1\nbase: [attention/local3]\n")
    with pytest.raises(UserError, match=r"^experiments/lab\.yaml:2: there is no fragment .* mean 'attention/local3d'"):
        load_experiment("lab")


def test_bases_in_a_circle_are_shown(write: Write) -> None:
    write("configs/a.yaml", "base: [b]\n")
    write("configs/b.yaml", "base: [a]\n")
    write("experiments/lab.yaml", "base: [a]\n")
    with pytest.raises(
        UserError,
        match=r"circle: experiments/lab\.yaml -> configs/a\.yaml -> configs/b\.yaml -> configs/a\.yaml\.$",
    ):
        load_experiment("lab")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "experiments/lab.yaml: the file is empty"),
        ("# only a comment\n", "experiments/lab.yaml: the file is empty"),
        ("- a\n", "experiments/lab.yaml: the file must be a mapping of keys to values, not a list"),
        ("base: 3\n", "experiments/lab.yaml:1: base must be a list of fragments"),
        ("a: \x07", "experiments/lab.yaml: not valid YAML"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(write: Write, text: str, message: str) -> None:
    write("experiments/lab.yaml", text)
    with pytest.raises(UserError) as caught:
        load_experiment("lab")
    assert message in str(caught.value)


def test_a_file_that_is_not_text_is_refused(write: Write) -> None:
    write("experiments/lab.yaml", "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"experiments/lab\.yaml: cannot be read"):
        load_experiment("lab")


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


def test_a_size_is_one_number_or_height_and_width_from_the_file_to_the_saved_run(write: Write) -> None:
    assert load(write, "video: {size: 48}").config.video.sides == (48, 48)
    sweep = expand_sweeps(["video.size=[32,48]", "seed=0,1"])
    assert sweep == [["video.size=[32,48]", "seed=0"], ["video.size=[32,48]", "seed=1"]]
    resolved = load(write, "video: {size: 48}", *sweep[0])
    assert (resolved.config.video.sides, resolved.provenance["video.size"]) == ((32, 48), "command line")
    saved = write("runs/config.yaml", resolved.to_yaml())
    assert load_experiment(saved).config == resolved.config
    assert not differences(saved, resolved.config)
    assert [each[:1] for each in differences(saved, load(write, "video: {size: 48}").config)] == [("video.size",)]
    squares = expand_sweeps(["video.size=32,48"])
    assert [load(write, "", *each).config.video.sides for each in squares] == [(32, 32), (48, 48)]


def test_the_size_of_squares_is_saved_as_one_number() -> None:
    assert "\n  size: 32\n" in load_experiment("quickstart").to_yaml()


@pytest.mark.parametrize("size", ["64", "[32,48]"])
def test_shapes_are_drawn_at_the_size_of_the_frames(size: str) -> None:
    config = load_experiment("quickstart", None, [f"video.size={size}"]).config
    assert config.data.options["size"] == config.video.size


def test_an_empty_mapping_empties_what_the_bases_said() -> None:
    assert load_experiment("quickstart").config.evaluation.metrics
    assert not load_experiment("quickstart", None, ["evaluation.metrics={}"]).config.evaluation.metrics


def test_a_key_that_has_moved_is_answered_with_its_new_place(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("text: {vocabulary: 400, length: 16}\n")
    with pytest.raises(
        UserError, match=r"old\.yaml:1: unknown key 'text\.vocabulary'\. It is text_tokenizer\.options\."
    ):
        load_experiment(tmp_path / "old.yaml")
