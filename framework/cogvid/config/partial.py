"""An attention component from the command line alone, where no experiment is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from omegaconf import OmegaConf

from cogvid.config.check import added_plugins, checked
from cogvid.config.overrides import COMMAND_LINE, override_layer
from cogvid.config.schema import ComponentConfig
from cogvid.config.sources import leaves
from cogvid.errors import UserError


@dataclass(frozen=True)
class AttentionChoice:
    """What `attention=...`, its options and `plugins=[...]` say.

    Attributes:
        component: name and options.
        plugins: modules, or absolute paths of files.
        sources: where each key got its value, for messages.
    """

    component: ComponentConfig
    plugins: list[str]
    sources: dict[str, str]


def load_attention(overrides: Sequence[str]) -> AttentionChoice:
    """Compose an attention component.

    Args:
        overrides: `key=value` of `attention` and `plugins`.

    Raises:
        UserError: another key, a malformed one, or no attention at all.
    """
    tree = OmegaConf.create()
    plugins: list[str] = []
    for override in overrides:
        part = checked(override_layer(override))
        for key in part:
            if key not in ("attention", "plugins"):
                raise UserError(
                    f"{COMMAND_LINE}: {override!r}: {key} belongs to an experiment; without one, only attention and "
                    "plugins can be set. Name an experiment first, such as quickstart."
                )
        if "plugins" in part:
            plugins = part["plugins"] = added_plugins(plugins, part["plugins"])
        tree = cast(Any, OmegaConf.merge(tree, part))
    if not OmegaConf.select(tree, "attention.name"):
        raise UserError(f"{COMMAND_LINE}: no attention is given; write attention=NAME, such as attention=swin_ar.")
    values = cast(dict[str, Any], OmegaConf.to_container(tree))
    component = ComponentConfig(values["attention"]["name"], values["attention"].get("options", {}))
    sources = dict.fromkeys((key for key, _ in leaves(values)), COMMAND_LINE)
    return AttentionChoice(component, plugins, sources)
