"""What the site has of cogvid itself: references with every name, exact signatures, code as it stands."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import pytest
import typer

from cogvid.cli import app
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.interfaces import hookspecs
from cogvid.interfaces.component import KINDS
from cogvid.plugins.manager import HOOKS, create_plugin_manager

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from made.show import for_site, shown  # noqa: E402
from made.source import find, markdown, quoted, signature  # noqa: E402


def page(name: str) -> str:
    path = DOCS / f"{name}.md"
    return for_site(path.read_text(), path)


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_everything_that_a_page_shows_is_there(path: Path) -> None:
    text = for_site(path.read_text(), path)
    assert '"show:' not in text
    assert "\0" not in text


def test_the_hooks_have_their_exact_signatures() -> None:
    text = page("reference/hooks")
    for hook, (kind, _) in HOOKS.items():
        function = getattr(hookspecs, hook)
        assert f"## `{hook}`\n\n```python\n@hookspec\ndef {hook}{inspect.signature(function)}\n```" in text.replace(
            "dict[str, ComponentClass]", "'dict[str, ComponentClass]'"
        )
        assert inspect.getdoc(function) in text
        assert f"kind `{kind}`" in text


def test_the_interfaces_have_every_method_that_a_plugin_may_override() -> None:
    text = page("reference/interfaces")
    for base in [part for _, bases in HOOKS.values() for part in getattr(bases, "__args__", (bases,))]:
        path = Path(inspect.getfile(base))
        own = [method for method, value in vars(base).items() if inspect.isfunction(value) and method[0] != "_"]
        assert own
        for method in own:
            name = f"{base.__name__}.{method}"
            said = signature(cast(ast.FunctionDef, find(path, name)))
            assert f"#### `{name}`\n\n```python\n{said}\n```" in text
            # Annotations are texts in these modules; long lines are broken on the page.
            exact = f"def {method}{inspect.signature(getattr(base, method))}".replace("'", "")
            assert "".join(said.split()).endswith("".join(exact.split()))


def test_the_configuration_has_every_key_with_its_default() -> None:
    text = page("reference/configuration")
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))

    def keys(config: type, key: str) -> Iterator[tuple[str, str]]:
        types = get_type_hints(config)
        for entry in fields(config):
            kind = types[entry.name]
            if is_dataclass(kind) and kind is not ComponentConfig:
                yield from keys(kind, f"{key}.{entry.name}".lstrip("."))  # type: ignore[arg-type]
            else:
                yield key, entry.name

    found = list(keys(ExperimentConfig, ""))
    assert len(found) > 100
    for key, name in found:
        title = f"`{key}`" if key else "The experiment"
        rows = [row for head, body in sections.items() if title in head for row in body.splitlines()]
        assert any(row.startswith(f"| `{name}` |") for row in rows), f"{key}.{name} is on no page"
    assert "| `fit` | `crop` or `pad` or `stretch` | `crop` | `crop`: the largest piece of the frame's" in text
    assert "| `warmup` | `float` | `0.01` | Share of the steps. It is from 0 to 1. |" in text
    assert "| `weights` | `str` or `null` | `null` | model.safetensors of a finished" in text
    assert re.search(r"\| `decoding` \| component \| `fixed_point` \|", text)


def test_the_components_have_all_options() -> None:
    text = page("reference/components")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [f"## {kind}" for kind in KINDS]
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    for info in create_plugin_manager().components():
        if info.origin.startswith("cogvid "):
            for entry in fields(info.cls.Config):
                assert f"| `{entry.name}` |" in sections[info.name]
    assert "| `extent` | `list[int]` | `[3, 6, 6]` |" in sections["local3d"]
    assert "Pixels, for both sides or as [height, width]." in sections["shapes"]


def test_the_commands_are_all_there() -> None:
    text = page("reference/commands")

    def names(command: Any, above: str) -> Iterator[str]:
        yield above
        for name, inner in getattr(command, "commands", {}).items():
            yield from names(inner, f"{above} {name}")

    found = list(names(typer.main.get_command(app), "cogvid"))
    assert "cogvid inspect metrics" in found
    assert [name for name in found if f"# `{name}`\n" not in text] == []
    assert "--jobs" in text


def test_code_is_quoted_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("class A:\n    x = 1\n\n    @property\n    def b(self) -> int:\n        return 1\n\n\nc = 2\n")
    assert quoted(path, "A.b") == "@property\ndef b(self) -> int:\n    return 1"
    assert quoted(path) == path.read_text().rstrip()
    with pytest.raises(LookupError, match=r"one\.py has no A\.c"):
        quoted(path, "A.c")


def test_a_docstring_becomes_a_list() -> None:
    said = (
        "What.\n\nArgs:\n    one: long,\n        and longer.\n    two, three: short.\n\nReturns:\n    One, or\n    no."
    )
    assert markdown(said) == (
        "What.\n\n**Args**\n\n* `one`: long, and longer.\n* `two, three`: short.\n\n**Returns**\n\nOne, or no."
    )


@pytest.mark.parametrize(
    "line", ['[x](nowhere.py "show: source")', '[x](words.md "show: checks a")', '[x](words.md "show: sorce a")']
)
def test_what_is_not_there_cannot_be_shown(line: str) -> None:
    with pytest.raises((LookupError, SyntaxError)):
        shown(line, DOCS / "index.md")


def test_links_lead_from_page_to_page_wherever_a_page_lies() -> None:
    text = "[a](docs/decoding.md#exact) [b](CHANGELOG.md) [c](benchmarks/x.json) [d](https://e.f) `[g](h.md)`"
    assert for_site(text, ROOT / "README.md").startswith(
        "[a](decoding.md#exact) [b](changelog.md) [c](benchmarks/x.json) [d](https://e.f)"
    )
    text = "[a](../../README.md) [b](../decoding.md)\n\n```sh\n[c](../decoding.md)\n```"
    assert for_site(text, DOCS / "plugins" / "x.md") == (
        "[a](../index.md) [b](../decoding.md)\n\n```sh\n[c](../decoding.md)\n```"
    )
