"""Values out of range are refused by file, key, value and range; so are values that do not fit each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cogvid.config.compose import load_experiment
from cogvid.config.options import checked_options
from cogvid.config.ranges import (
    Allowed,
    above,
    at_least,
    between,
    each,
    file_name,
    from_to_below,
    not_blank,
    one_of,
    option,
)
from cogvid.config.sides import height_and_width, sides
from cogvid.errors import UserError

EXPERIMENT = """
attention: {name: naive}
data: shapes
frame_rate: fixed
frame_tokenizer: vqvae
text_tokenizer: bpe
interpolation: hold
stages:
  tokenizer: &stage {steps: 1, batch_size: 1}
  image_base: *stage
  sequential: *stage
  interpolation: *stage
"""
NAN, INF = float("nan"), float("inf")
NONSENSE = {
    "video.size": [0, -1, 2**31, "big", "true", "null", 32.5, "{a: 1}", [32], [32, 0], [32, 48, 64], [[32, 48], 48]],
    "video.frames": [0, 1],
    "trainer.precision": ["64-true", "bf16-true", "8"],
    "text.length": [0],
    "model.layers": [0, -3],
    "model.width": [0],
    "model.heads": [0, -1],
    "model.gate_init": [NAN, INF, 1e300],
    "trainer.devices": [0, -1],
    "trainer.threads": [-1, 10**9],
    "trainer.workers": [-1, 10**9],
    "trainer.log_every": [0],
    "trainer.sample_every": [-1],
    "trainer.sample_prompts": [[""], ["a", "  "]],
    "generation.samples": [0],
    "generation.frames": [0],
    "generation.batch_size": [0],
    "evaluation.batch_size": [0, -1],
    "seed": [-1, 2**31],
    "data_seed": [-1],
    "seeds": [[], [0, -1], [["x"]]],
    "plugins": [["  "]],
    **{
        f"stages.{stage}.{name}": values
        for stage in ("tokenizer", "image_base", "sequential", "interpolation")
        for name, values in {
            "steps": [0, -5],
            "batch_size": [0],
            "adam_lr": [-1e-3, NAN, INF],
            "muon_lr": [-1e-3, NAN],
            "betas": [[0.9], [0.9, 1.0], [-0.1, 0.9], [NAN, 0.9], [0.9, 0.9, 0.9]],
            "weight_decay": [-1.0, NAN],
            "caption_dropout": [-0.1, 1.1, NAN],
            "clip_norm": [-1.0, NAN, INF],
            "warmup": [-0.1, 1.1, NAN],
            "cooldown": [-0.1, 1.1, NAN],
            "checkpoint_every": [0],
        }.items()
    },
    "stages.tokenizer.clusters": [0],
    "stages.tokenizer.frames": [1],
    "stages.image_base.stills": [-0.1, 1.1, NAN],
    **{
        f"generation.{model}.{name}": values
        for model in ("first_frame", "sequential", "interpolation")
        for name, values in {
            "temperature": [-1.0, NAN, INF],
            "top_k": [-1],
            "top_p": [-0.5, 2.0, NAN],
            "guidance": [-1.0, NAN, INF],
            "code_temperature": [-1.0, NAN],
            "text_bias": [NAN, INF],
        }.items()
    },
}


@dataclass
class Inner:
    share: float = option(0.5, between(0, 1))


@dataclass
class Config:
    """Of a stranger's plugin."""

    rates: list[float] = option([1.0], each(above(0, 10)))
    window: int | None = option(None, at_least(1))
    kind: str = option("a", one_of("a", "b"))
    inner: Inner = field(default_factory=Inner)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(EXPERIMENT)
    return path


@pytest.mark.parametrize(("key", "values"), NONSENSE.items())
def test_a_value_out_of_range_is_refused_by_its_key(file: Path, key: str, values: list[Any]) -> None:
    for value in values:
        said = str(value).replace("nan", ".nan").replace("inf", ".inf")
        with pytest.raises(UserError, match=rf"^command line: {key}: it must be .*, got ") as error:
            load_experiment(file, None, [f"{key}={said}"])
        assert "\n" not in str(error.value)


def test_the_message_names_file_line_key_range_and_value(file: Path) -> None:
    file.write_text(EXPERIMENT + "generation:\n  sequential:\n    top_p: 2\n")
    message = r"lab\.yaml:15: generation\.sequential\.top_p: it must be from 0 to 1, got 2\.0\.$"
    with pytest.raises(UserError, match=message):
        load_experiment(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.width=32", "model.heads=3"], r"command line: model\.heads: 3 heads do not divide model\.width.*32"),
        (["model.positions=rotary", "model.width=9", "model.heads=3"], r"model\.positions: .* has 3 of them"),
        (
            ["stages.sequential.warmup=0.6", "stages.sequential.cooldown=0.5"],
            r"command line: stages\.sequential: warmup 0\.6 and cooldown 0\.5",
        ),
        (
            ["generation.given=6"],
            r"command line: generation\.given: 6 key frames cannot be given, since there are 5 .*video\.frames",
        ),
    ],
)
def test_values_that_do_not_fit_each_other_are_refused_by_both_keys(
    file: Path, changes: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(file, None, changes)


def test_the_values_at_the_ends_are_allowed(file: Path) -> None:
    changes = ["stages.tokenizer.warmup=0", "stages.tokenizer.cooldown=1", "generation.sequential.temperature=0"]
    assert load_experiment(file, None, changes).config.stages.tokenizer.cooldown == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rates": [1.0, NAN]},
            r"x\.yaml:3: data\.options\.rates: .* component 'x' must be a list",
        ),
        ({"rates": []}, r"data\.options\.rates: .* 1 or more values, each above 0 and at most 10, got \[\]"),
        ({"window": 0}, r"data\.options\.window: .* at least 1"),
        ({"kind": "c"}, r"data\.options\.kind: .* 'a' or 'b', got 'c'"),
        ({"inner": {"share": 2.0}}, r"data\.options\.inner\.share: .* from 0 to 1, got 2\.0"),
    ],
)
def test_a_plugin_says_its_ranges_in_the_same_words(options: dict[str, Any], message: str) -> None:
    sources = {"data.options.rates": "x.yaml:3"}
    with pytest.raises(UserError, match=message):
        checked_options(Config, options, "the data component 'x'", "data", sources)


def test_the_defaults_of_an_option_are_not_shared() -> None:
    Config().rates.append(2.0)
    assert Config().rates == [1.0]
    assert checked_options(Config, {"window": None}, "x").window is None


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (at_least(0), [0, 1e-9, 5], [-1e-9, NAN, INF, 2**31]),
        (above(0, 10), [1e-9, 10], [0, 10.5, NAN]),
        (between(0, 1), [0, 1], [-0.1, 1.1, NAN]),
        (from_to_below(0, 1), [0, 0.9], [1, NAN]),
        (one_of(2, 4), [2], [3]),
        (not_blank(), ["a"], ["", " \n"]),
        (file_name(), ["a/b.csv", "/x"], ["", " ", "a\0", "x" * 256, "a/" + "ü" * 128]),
        (each(at_least(1), least=0), [[], [1]], [[0]]),
        (each(at_least(1), count=2), [[1, 2]], [[], [1], [1, 2, 3], [1, 0]]),
        (sides(at_least(2)), [2, [2, 3]], [1, [2], [2, 1], [2, 2, 2], [2, 2.0], 2.0, True, "2", None, {"a": 2}]),
    ],
    ids=lambda value: value.words if isinstance(value, Allowed) else "",
)
def test_a_range_holds_what_its_words_say(allowed: Allowed, inside: list[Any], outside: list[Any]) -> None:
    assert all(map(allowed.test, inside))
    assert not any(map(allowed.test, outside))


def test_a_size_is_a_square_or_height_and_width() -> None:
    assert height_and_width(32) == (32, 32)
    assert height_and_width([32, 48]) == (32, 48)
