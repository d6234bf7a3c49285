"""Checking what one source of the configuration says against the types of an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cogvid.config.options import first_line
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.config.sources import Layer, leaves
from cogvid.errors import UserError

# Keys that an earlier version had, and where what they said is said now.
_MOVED = {"text.vocabulary": "text_tokenizer.options.vocabulary"}
_RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return get_type_hints(kind)


def types_below(expected: Any, names: Iterable[str]) -> dict[str, Any]:
    """The type of each key of a dataclass, or of each of `names` in a dict."""
    if is_dataclass(expected):
        return type_hints(cast(type, expected))
    return dict.fromkeys(names, get_args(expected)[1] if get_origin(expected) is dict else Any)


def without_none(expected: Any) -> tuple[Any, bool]:
    """`T | None` as (T, True), any other type as (T, False)."""
    if get_origin(expected) in (Union, UnionType):
        return next(part for part in get_args(expected) if part is not NoneType), True
    return expected, False


@cache
def schema() -> DictConfig:
    """The experiment's types and defaults, made once; `OmegaConf.merge` copies it."""
    return cast(DictConfig, OmegaConf.structured(ExperimentConfig))


def checked(layer: Layer) -> dict[str, Any]:
    """The layer's tree, shorthands spelt out and plugin files absolute.

    Raises:
        UserError: a key is unknown, or a value of a wrong type; the message says where.
    """
    tree = cast(dict[str, Any], _spelt_out(layer.tree, ExperimentConfig, "", layer))
    for key, value in leaves(tree):
        if _RESOLVER.search(str(value)):
            raise UserError(
                f"{layer.place(key)}: {key} calls a resolver, {value!r}: only ${{other.key}} may stand in an "
                "experiment, so that its files say all of it. Set what depends on the machine by key=value."
            )
    if "plugins" in tree:
        _locate_plugins(tree, layer)
    try:
        # Into a copy of its own keys' types alone: this is what loading an experiment takes longest for.
        OmegaConf.unsafe_merge(OmegaConf.masked_copy(schema(), list(tree)), tree)
    except (OmegaConfBaseException, TypeError) as error:
        key = str(getattr(error, "full_key", None) or "")
        raise UserError(f"{layer.place(key.partition('[')[0])}: {key}: {first_line(error)}.") from error
    return tree


def _spelt_out(value: Any, expected: Any, key: str, layer: Layer) -> Any:
    """Checks names and containers, and turns `attention: naive` into `attention: {name: naive}`."""
    place = layer.place(key)
    expected, optional = without_none(expected)
    if expected is Any or (value is None and optional) or (isinstance(value, str) and "${" in value):
        return value
    if value is None:
        raise UserError(f"{place}: {key} has no value; give it one, or remove the key.")
    if expected is ComponentConfig and isinstance(value, str):
        return {"name": value}
    if is_dataclass(expected) or get_origin(expected) is dict:
        if not isinstance(value, dict):
            raise UserError(f"{place}: {key} must be a mapping of keys to values, got {value!r}.")
        types = types_below(expected, value)
        for name in value:
            if name not in types:
                raise UserError(_unknown_key(layer, key, name, types))
        below = f"{key}." if key else ""
        return {name: _spelt_out(item, types[name], below + name, layer) for name, item in value.items()}
    if get_origin(expected) is list and not isinstance(value, list):
        raise UserError(f"{place}: {key} must be a list such as [a, b], got {value!r}.")
    return value


def _unknown_key(layer: Layer, key: str, name: str, types: Mapping[str, Any]) -> str:
    full_key = f"{key}.{name}" if key else name
    guesses = [f"{key}.{guess}" if key else guess for guess in get_close_matches(name, types, n=1)]
    guesses += [known for known in known_keys(ExperimentConfig) if known.endswith(f".{name}")]
    hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    if full_key in _MOVED:
        hint = f" It is {_MOVED[full_key]} now."
    where = f"Keys of {key}" if key else "Keys"
    return f"{layer.place(full_key)}: unknown key {full_key!r}.{hint} {where}: {', '.join(types)}."


def added_plugins(before: Sequence[str], more: Sequence[str]) -> list[str]:
    """Plugins in the order in which they are first named; an empty list empties what was named before."""
    return list(dict.fromkeys([*before, *more])) if more else []


def _locate_plugins(tree: dict[str, Any], layer: Layer) -> None:
    """Plugin files are relative to the file that says them; from here on they are absolute."""
    said, place = tree["plugins"], layer.place("plugins")
    if not isinstance(said, list) or not all(isinstance(name, str) and name.strip() for name in said):
        raise UserError(f"{place}: plugins: it must be a list of modules and files, such as [a, ./b.py], got {said!r}.")
    tree["plugins"] = [str((layer.folder / name).resolve()) if name.endswith(".py") else name for name in said]
    if said:
        # Lists add up: of each place one sees which plugins it names.
        layer.places["plugins"] = f"{place} ({', '.join(said)})"


def known_keys(expected: Any, prefix: str = "") -> Iterator[str]:
    """Full keys of a dataclass, each behind the one that it is below."""
    for name, inner in types_below(without_none(expected)[0], ()).items():
        yield f"{prefix}{name}"
        yield from known_keys(inner, f"{prefix}{name}.")
