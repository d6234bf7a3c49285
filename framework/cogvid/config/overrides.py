"""What `key=value` on the command line says, and sweeps over several values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from cogvid.config.sources import Layer, parse_yaml
from cogvid.errors import UserError

COMMAND_LINE = "command line"
_BRACKETS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}


def override_layer(override: str) -> Layer:
    """`key=value` as a layer; the value is read as YAML.

    Raises:
        UserError: there is no `=`, or the value is not YAML.
    """
    key, text = _split(override)
    value = parse_yaml(text, f"{COMMAND_LINE}, {override}")[0] if text else ""
    tree: dict[str, Any] = {}
    *above, name = key.split(".")
    inner = tree
    for part in above:
        inner = inner.setdefault(part, {})
    inner[name] = value
    return Layer(tree, {"": COMMAND_LINE}, Path.cwd())


def expand_sweeps(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of the overrides' values: `seed=0,1` stands for two runs.

    A comma inside brackets or quotes belongs to the value. The last override varies fastest.

    Raises:
        UserError: an override has no `=`, or a value between commas is empty.
    """
    choices = []
    for override in overrides:
        key, text = _split(override)
        values = at_commas(text)
        if len(values) > 1 and not all(values):
            raise UserError(f"{COMMAND_LINE}: {override!r} sweeps over an empty value; remove the extra comma.")
        choices.append([f"{key}={value}" for value in values])
    return [list(combination) for combination in product(*choices)]


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise UserError(f"{COMMAND_LINE}: {override!r} is not key=value; write for example seed=1.")
    return key.strip(), value.strip()


def at_commas(text: str) -> list[str]:
    """The parts between commas; one inside brackets or quotes belongs to its part."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += _BRACKETS.get(letter, 0)
        if letter == "," and not quote and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]
