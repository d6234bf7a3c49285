"""An experiment is composed from files, a variant and the command line, and every value knows its source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from cogvid.config import Resolved, experiment_names, load_experiment
from cogvid.config.schema import ComponentConfig, ExperimentConfig, InterpolationStart, Positions
from cogvid.config.sources import shipped
from cogvid.errors import UserError

Write = Callable[..., Path]
Load = Callable[..., Resolved]


def test_a_part_of_an_experiment_given_by_name_is_the_fragment_of_that_name(write_yaml: Write, load_lab: Load) -> None:
    write_yaml("configs/trainer/many.yaml", "trainer: {devices: 4, precision: bf16-mixed}\nvideo: {size: 64}\n")
    loaded = load_lab(
        "trainer: {log_every: 7}\nstages: {tokenizer: {batch_size: 8}}", "trainer=many", "trainer.devices=1"
    )
    trainer = loaded.config.trainer
    assert (trainer.devices, trainer.precision, trainer.log_every) == (1, "bf16-mixed", 7)
    assert loaded.config.video.size == 64
    assert "many.yaml" in loaded.provenance["trainer.precision"]
    with pytest.raises(UserError) as caught:
        load_lab("", "trainer=manny")
    message = str(caught.value)
    assert "command line: 'trainer=manny'" in message
    assert "there is no fragment 'trainer/manny'" in message
    assert "trainer/many" in message


def test_bases_then_the_file_then_the_variant_then_the_command_line(write_yaml: Write) -> None:
    for number, name in enumerate(["one", "two"]):
        write_yaml(
            f"configs/{name}.yaml",
            f"model: {{layers: {number}, width: {number}, heads: {number}}}\nseed: {number}\n",
        )
    text = """
    model: {heads: 10}
    variants:
      wide: {model: {width: 20}, video: {size: 64}}
    """
    write_yaml("experiments/lab.yaml", "base: [complete, one, two]\n" + dedent(text))
    config = load_experiment("lab", "wide", ["video.size=128"]).config
    assert (config.seed, config.model.layers, config.model.heads) == (1, 1, 10)
    assert (config.model.width, config.video.size) == (20, 128)


def test_the_config_is_a_tree_of_dataclasses_with_enumerations(load_lab: Load) -> None:
    config = load_lab("model: {positions: rotary}").config
    assert type(config) is ExperimentConfig
    assert config.model.positions is Positions.rotary
    assert config.stages.interpolation.start is InterpolationStart.sequential
    assert config.attention == ComponentConfig("local3d", {"extent": [3, 2, 2], "bias": True})
    assert type(config.attention.options) is dict


def test_name_and_variant_are_those_of_file_and_choice(load_lab: Load) -> None:
    text = "variants: {a: {seed: 1}, b: }"
    assert (load_lab(text).config.name, load_lab(text).config.variant) == ("lab", "default")
    assert load_lab(text, variant="default").config == load_lab(text).config
    resolved = load_lab(text, variant="b")
    assert (resolved.config.variant, resolved.variants, resolved.path.name) == ("b", ["a", "b"], "lab.yaml")


def test_every_value_knows_where_it_was_said(load_lab: Load) -> None:
    text = """
    model:
      layers: 3
    variants:
      v:
        video: {size: 8}
    """
    sources = load_lab(text, "seed=4", variant="v").provenance
    assert sources["model.layers"] == "experiments/lab.yaml:4"
    assert sources["video.size"] == "experiments/lab.yaml:7 (variant v)"
    assert sources["attention.options.extent"] == "configs/complete.yaml:1"
    assert sources["seed"] == "command line"
    assert sources["model.width"] == "default"
    assert sources["name"] == "experiments/lab.yaml"


def test_a_fragment_may_have_bases_of_its_own(write_yaml: Write, load_lab: Load) -> None:
    write_yaml("configs/model/deep.yaml", "base: model/wide\nmodel: {layers: 30}\n")
    write_yaml("configs/model/wide.yaml", "model: {layers: 1, width: 99}\n")
    model = load_lab("variants: {deep: {base: [model/deep]}}", variant="deep").config.model
    assert (model.layers, model.width) == (30, 99)


def test_variants_of_a_base_are_inherited(write_yaml: Write) -> None:
    write_yaml("configs/ablation.yaml", "variants: {small: {model: {layers: 1, width: 2}}}\n")
    write_yaml(
        "experiments/lab.yaml",
        "base: [complete, ablation]\nvariants: {small: {model: {width: 3}}, other: }\n",
    )
    resolved = load_experiment("lab", "small")
    assert resolved.variants == ["small", "other"]
    assert (resolved.config.model.layers, resolved.config.model.width) == (1, 3)


def test_options_are_replaced_when_the_name_changes(load_lab: Load) -> None:
    assert load_lab("attention: {name: naive}").config.attention == ComponentConfig("naive", {})
    other = load_lab("attention: {name: swin_ar, options: {window: [4, 4]}}").config.attention
    assert other.options == {"window": [4, 4]}


def test_options_are_merged_while_the_name_stays(load_lab: Load) -> None:
    for text in ["attention: {options: {bias: false}}", "attention: {name: local3d, options: {bias: false}}"]:
        assert load_lab(text).config.attention.options == {"extent": [3, 2, 2], "bias": False}


def test_options_of_nested_components_are_replaced_too(load_lab: Load) -> None:
    text = """
    stages: {interpolation: {attention: {name: local3d, options: {extent: [1, 1, 1]}}}}
    evaluation: {metrics: {score: {name: fvd, options: {extractor: a}}, kept: {name: fvd, options: {x: 1}}}}
    """
    overrides = ["stages.interpolation.attention.name=naive", "evaluation.metrics.score=inception_score"]
    config = load_lab(text, *overrides).config
    assert config.stages.interpolation.attention == ComponentConfig("naive", {})
    assert config.evaluation.metrics["score"] == ComponentConfig("inception_score", {})
    assert config.evaluation.metrics["kept"].options == {"x": 1}


def test_a_component_may_be_given_by_its_name_alone(load_lab: Load) -> None:
    assert load_lab("attention: naive").config.attention == ComponentConfig("naive")
    assert load_lab("", "attention=naive").config.attention == ComponentConfig("naive")
    stage = load_lab("", "stages.interpolation.attention=naive").config.stages.interpolation
    assert stage.attention == ComponentConfig("naive")


def test_an_optional_component_may_be_null(load_lab: Load) -> None:
    text = "stages: {interpolation: {attention: naive}}"
    assert load_lab(text, "stages.interpolation.attention=null").config.stages.interpolation.attention is None


def test_fragments_are_found_beside_the_experiment_from_any_folder(
    write_yaml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_yaml("experiments/lab.yaml", "base: [complete, beside, ./sub/explicit.yaml]\n")
    write_yaml("experiments/beside.yaml", "seed: 5\n")
    write_yaml("experiments/sub/explicit.yaml", "model: {layers: 7}\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_experiment(path).config
    assert (config.seed, config.model.layers) == (5, 7)


def test_shipped_fragments_are_found_from_any_folder(load_lab: Load) -> None:
    config = load_lab("variants: {v: {base: [attention/swin_ar]}}", variant="v").config
    assert config.attention.name == "swin_ar"


def test_a_project_may_shadow_a_shipped_fragment(write_yaml: Write, load_lab: Load) -> None:
    write_yaml("configs/attention/swin_ar.yaml", "attention: naive\n")
    assert load_lab("variants: {v: {base: [attention/swin_ar]}}", variant="v").config.attention.name == "naive"


def test_experiments_are_listed_by_name(write_yaml: Write) -> None:
    write_yaml("experiments/mine/first.yaml", "seed: 1\n")
    assert "mine/first" in experiment_names()


@pytest.mark.parametrize("kind", ["frame_rate", "interpolation", "attention"])
def test_every_shipped_component_fragment_sets_its_component(load_lab: Load, kind: str) -> None:
    fragments = sorted((shipped() / "configs" / kind).glob("*.yaml"))
    assert fragments
    for fragment in fragments:
        variants = f"variants: {{v: {{base: [{kind}/{fragment.stem}]}}}}"
        assert getattr(load_lab(variants, variant="v").config, kind).name == fragment.stem


def test_an_empty_mapping_empties_what_the_bases_said() -> None:
    assert load_experiment("quickstart").config.evaluation.metrics
    assert not load_experiment("quickstart", None, ["evaluation.metrics={}"]).config.evaluation.metrics
