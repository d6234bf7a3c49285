"""A mistake in an experiment is answered with its place, its cause and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cogvid.config import Resolved, load_experiment
from cogvid.errors import UserError

Write = Callable[..., Path]
Load = Callable[..., Resolved]


def error_of(load_lab: Load, text: str, *overrides: str, variant: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_lab(text, *overrides, variant=variant)
    return str(caught.value)


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
def test_a_mistake_in_a_file_names_place_key_and_cause(load_lab: Load, text: str, message: str) -> None:
    assert message in error_of(load_lab, text)


def test_a_mistake_in_the_chosen_variant_names_the_variant(load_lab: Load) -> None:
    text = "variants: {v: {seed: x}, w: {variants: {}}}"
    assert "experiments/lab.yaml:2 (variant v): seed: Value 'x'" in error_of(load_lab, text, variant="v")
    assert "experiments/lab.yaml:2 (variant w): unknown key 'variants'" in error_of(load_lab, text, variant="w")


def test_a_mistake_in_a_fragment_names_the_fragment(write_yaml: Write) -> None:
    write_yaml("configs/wrong.yaml", "\nseed: x\n")
    write_yaml("experiments/lab.yaml", "base: [wrong, complete]\nseed: 1\n")
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
def test_a_mistake_on_the_command_line_is_named(load_lab: Load, override: str, message: str) -> None:
    assert message in error_of(load_lab, "variants: {v: {seed: 3}}", override)


def test_missing_values_are_all_named(write_yaml: Write) -> None:
    write_yaml("experiments/lab.yaml", "evaluation: {metrics: {fvd: {options: {a: 1}}}}\nattention: {name: naive}\n")
    with pytest.raises(UserError) as caught:
        load_experiment("lab")
    message = str(caught.value)
    assert message.startswith("experiments/lab.yaml: no value for data.name, evaluation.metrics.fvd.name, ")
    assert "stages.tokenizer.steps" in message
    assert "attention.name" not in message


def test_an_unknown_variant_is_answered_with_the_variants(load_lab: Load) -> None:
    message = error_of(load_lab, "variants: {naive: {seed: 1}, wide: {seed: 2}}", variant="nave")
    assert message == "experiments/lab.yaml has no variant 'nave'. Its variants: naive, wide."


def test_an_unknown_experiment_is_answered_with_the_nearest(write_yaml: Write) -> None:
    write_yaml("experiments/laboratory.yaml", "seed: 1\n")
    with pytest.raises(
        UserError, match=r"no experiment 'laborotory'\. Did you mean 'laboratory'\? Known: .*laboratory"
    ):
        load_experiment("laborotory")


def test_an_unknown_fragment_is_answered_with_the_nearest(write_yaml: Write) -> None:
    write_yaml("experiments/lab.yaml", "seed: 1\nbase: [attention/local3]\n")
    with pytest.raises(UserError, match=r"^experiments/lab\.yaml:2: there is no fragment .* mean 'attention/local3d'"):
        load_experiment("lab")


def test_bases_in_a_circle_are_shown(write_yaml: Write) -> None:
    write_yaml("configs/a.yaml", "base: [b]\n")
    write_yaml("configs/b.yaml", "base: [a]\n")
    write_yaml("experiments/lab.yaml", "base: [a]\n")
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
def test_a_file_that_is_no_experiment_is_refused(write_yaml: Write, text: str, message: str) -> None:
    write_yaml("experiments/lab.yaml", text)
    with pytest.raises(UserError) as caught:
        load_experiment("lab")
    assert message in str(caught.value)


def test_a_file_that_is_not_text_is_refused(write_yaml: Write) -> None:
    write_yaml("experiments/lab.yaml", "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"experiments/lab\.yaml: cannot be read"):
        load_experiment("lab")


def test_a_key_that_has_moved_is_answered_with_its_new_place(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("text: {vocabulary: 400, length: 16}\n")
    with pytest.raises(
        UserError, match=r"old\.yaml:1: unknown key 'text\.vocabulary'\. It is text_tokenizer\.options\."
    ):
        load_experiment(tmp_path / "old.yaml")
