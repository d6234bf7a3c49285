"""The reference of the configuration, made from its schema: each part with the keys that it is found under."""

from __future__ import annotations

import inspect
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from cogvid.config.schema import ComponentConfig, ExperimentConfig

from .fields import table
from .source import markdown


def configuration() -> str:
    """A section for each dataclass of the schema, the experiment's own keys first."""
    return "\n\n".join(_section(config, keys) for config, keys in _parts().items() if _own(config))


def _parts() -> dict[type, list[str]]:
    """Where each part of the schema is found; what several have in common comes before them."""
    found: dict[type, list[str]] = {}

    def walk(config: type, key: str) -> None:
        for part in (*_bases(config), config):
            found.setdefault(part, []).append(key)
        for name, kind in _inner(config).items():
            walk(kind, f"{key}.{name}" if key else name)

    walk(ExperimentConfig, "")
    return found


def _section(config: type, keys: list[str]) -> str:
    title = ", ".join(f"`{key}`" for key in keys) if keys[0] else "The experiment"
    lines = [f"## {title}", ""]
    text = markdown(config.__doc__ or "")
    if text and not text.startswith(f"{config.__name__}("):  # what dataclasses write themselves
        lines += [text, ""]
    for base in _bases(config):
        shared = ", ".join(f"`{name}`" for name in inspect.get_annotations(base))
        lines += [f"Besides what it shares with others (above): {shared}.", ""]
    return "\n".join([*lines, table(config, _own(config))])


def _own(config: type) -> list[str]:
    return [name for name in inspect.get_annotations(config) if name not in _inner(config)]


def _bases(config: type) -> list[type]:
    return [base for base in reversed(config.__mro__[1:]) if is_dataclass(base)]


def _inner(config: type) -> dict[str, Any]:
    """The fields that are parts of the schema themselves."""
    types = get_type_hints(config)
    inner = {entry.name: types[entry.name] for entry in fields(config)}
    return {
        name: kind
        for name, kind in inner.items()
        if inspect.isclass(kind) and is_dataclass(kind) and kind is not ComponentConfig
    }
