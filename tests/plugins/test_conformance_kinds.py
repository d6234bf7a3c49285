"""One way into the suites of all kinds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cogvid.testing
from cogvid import UserError
from cogvid.interfaces.component import KINDS
from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import conformance, kinds

FOLDER = Path(__file__).parent
# Kinds whose tests say by themselves that they hold every built-in component.
BY_THEMSELVES = {"attention", "decoding", "metric", "text_tokenizer"}


def test_every_kind_has_a_suite_that_is_exported() -> None:
    assert kinds.SUITES.keys() == set(KINDS)
    for suite in kinds.SUITES.values():
        assert getattr(cogvid.testing, suite.__name__) is suite
        assert suite.__name__ in cogvid.testing.__all__


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("frame_rate", "fixed", {"rate": 2}),
        ("interpolation", "hold", None),
        ("text_tokenizer", "bpe", {"vocabulary": 300}),
        ("metric", "shapes_oracle", None),
    ],
)
def test_a_component_of_any_kind_is_held_to_its_own_suite(kind: str, name: str, options: dict[str, int] | None) -> None:
    conformance(kind, name, options)  # type: ignore[arg-type]


def test_settings_go_to_the_suite() -> None:
    with pytest.raises(UserError, match="at least 11x11 pixels"):
        conformance("metric", "reconstruction", side=8)


def test_a_kind_that_there_is_not_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no kind of component 'metrics'\. Did you mean 'metric'"):
        conformance("metrics", "fvd")  # type: ignore[arg-type]


def test_every_built_in_component_of_the_other_kinds_is_held_to_its_suite() -> None:
    files = {"frame_rate": "frame_rate", "interpolation": "interpolation", "data": "data_source"}
    files["frame_tokenizer"] = "frame_tokenizer"
    assert files.keys() | BY_THEMSELVES == set(KINDS)
    for info in create_plugin_manager().components():
        if info.kind in files and "cogvid" in info.origin:
            text = (FOLDER / f"test_{files[info.kind]}_conformance.py").read_text()
            assert re.search(rf'\(\s*"{info.name}", ', text), info


def test_the_docstring_of_a_suite_names_its_checks() -> None:
    for suite in kinds.SUITES.values():
        module = __import__(suite.__module__, fromlist=["CHECKS"])
        said = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^ *\* (.*?):", suite.__doc__ or "", re.M)))
        assert sorted(said) == sorted(module.CHECKS), suite
