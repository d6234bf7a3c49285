"""The fields of a configuration dataclass as a table: type, default, range, and the comment beside each."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

import omegaconf

from cogvid.config.schema import ComponentConfig


def table(config: type, names: list[str]) -> str:
    """Some of a dataclass's fields, a row each."""
    types = get_type_hints(config)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for entry in fields(config):
        if entry.name in names:
            allowed = entry.metadata.get("cogvid.allowed")
            said = [comment(config, entry.name), f"It is {allowed.words}." if allowed else ""]
            said += _members(types[entry.name])
            cells = (f"`{entry.name}`", _type(types[entry.name]), _default(entry), " ".join(filter(None, said)))
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def comment(config: type, name: str) -> str:
    """What the comments at a field say, above it and behind it, as a sentence."""
    for cls in config.__mro__:
        if is_dataclass(cls) and name in inspect.get_annotations(cls):
            text = _comments(cls).get(name, "")
            if text.partition(" ")[0].rstrip(",;:").isalpha():
                text = text[0].upper() + text[1:]
            return text if not text or text.endswith(".") else f"{text}."
    return ""


@cache
def _comments(cls: type) -> Mapping[str, str]:
    """Comments by what they stand at, a field or a member."""
    code = textwrap.dedent(inspect.getsource(cls))
    lines, found = code.splitlines(), {}
    node = ast.parse(code).body[0]
    assert isinstance(node, ast.ClassDef)
    for child in node.body:
        if not isinstance(child, ast.AnnAssign | ast.Assign):
            continue
        target = child.target if isinstance(child, ast.AnnAssign) else child.targets[0]
        above: list[str] = []
        while (match := re.match(r" *# ?(.*)", lines[child.lineno - 2 - len(above)])) is not None:
            above.insert(0, match[1])
        behind = re.search(r"  # (?!type:|noqa)(.*)", lines[(child.end_lineno or child.lineno) - 1])
        found[ast.unparse(target)] = " ".join([*above, *([behind[1]] if behind else [])])
    return found


def _members(kind: Any) -> list[str]:
    """What the members of an enumeration are."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        return []
    texts = _comments(kind)
    return [f"`{member.name}`: {texts[member.name]}." for member in kind if texts.get(member.name)]


def _type(kind: Any) -> str:
    if kind is Any:
        return ""
    if kind is ComponentConfig:
        return "component"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{member.name}`" for member in kind)
    parts = get_args(kind)
    if NoneType in parts:
        return f"{_type(next(part for part in parts if part is not NoneType))} or `null`"
    if ComponentConfig in parts:
        return "components by name"
    return f"`{kind.__name__ if isinstance(kind, type) and not parts else kind}`"


def _default(entry: Field[Any]) -> str:
    value = entry.default if entry.default_factory is MISSING else entry.default_factory()
    if isinstance(value, ComponentConfig):
        value = value.name
    if value is MISSING or value == omegaconf.MISSING:
        return "required"
    if isinstance(value, Enum):
        value = value.name
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"
