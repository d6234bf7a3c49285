"""The reference of the built-in components: what each is, and its options."""

from __future__ import annotations

import inspect
from dataclasses import fields

from cogvid.interfaces.component import KINDS
from cogvid.plugins.manager import ComponentInfo, create_plugin_manager

from .fields import table
from .source import markdown


def components() -> str:
    """A section for each kind, and one in it for each component that comes with cogvid.

    Raises:
        LookupError: one of them cannot be loaded: the page would be without it.
    """
    manager = create_plugin_manager()
    own = [item for item in manager.broken if item.origin.partition(" ")[0] == "cogvid"]
    if own:
        raise LookupError(f"install what the built-in plugins need: {own[0].cause}")
    infos = [info for info in manager.components() if info.cls.__module__.startswith(("cogvid.", "cogvid_plugins."))]
    sections = []
    for kind in KINDS:
        sections.append(f"## {kind}")
        sections += [_component(info) for info in infos if info.kind == kind]
    return "\n\n".join(sections)


def _component(info: ComponentInfo) -> str:
    lines = [f"### `{info.name}`", "", markdown(info.cls.__doc__ or "")]
    config = info.cls.Config
    names = [entry.name for entry in fields(config)]
    if not names:
        return "\n".join([*lines, "", "No options."])
    said = inspect.getdoc(config) or ""
    if not said.startswith(f"{config.__name__}("):
        lines += ["", markdown(said)]
    return "\n".join([*lines, "", table(config, names)])
