"""Composing an experiment: fragments left to right, the file itself, a variant, then the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cogvid.config.check import added_plugins, checked, schema, type_hints, types_below, without_none
from cogvid.config.options import first_line
from cogvid.config.overrides import expand_sweeps, override_layer
from cogvid.config.ranges import check_ranges
from cogvid.config.rules import check_rules
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.config.sources import (
    Layer,
    display,
    find_experiment,
    find_fragment,
    leaves,
    parse_yaml,
    read_layer,
)
from cogvid.errors import UserError

__all__ = ["DEFAULT_VARIANT", "Resolved", "differences", "expand_sweeps", "load_experiment", "to_yaml"]

DEFAULT_VARIANT = "default"
# As long as file systems take them, with room for what is added to them.
_FOLDER_NAME = re.compile(r"[^./\\\s\0-\x1f][^/\\\0-\x1f]{,99}")


@dataclass(frozen=True)
class Resolved:
    """An experiment with all values decided.

    Attributes:
        config: the values.
        provenance: for each full key, the `file:line` that gave the value, `command line` or `default`.
        variants: names of the experiment's variants.
        path: the experiment's file.
    """

    config: ExperimentConfig
    provenance: dict[str, str]
    variants: list[str]
    path: Path

    def to_yaml(self) -> str:
        """The resolved configuration; loading it gives the same values."""
        return to_yaml(self.config)


def to_yaml(config: ExperimentConfig) -> str:
    """A configuration as YAML, enumerations by name."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def load_experiment(name_or_path: str | Path, variant: str | None = None, overrides: Sequence[str] = ()) -> Resolved:
    """Compose an experiment.

    Args:
        name_or_path: a YAML file, or the name of one in ./experiments or among those shipped.
        variant: one of the file's `variants`; None or `default` for the experiment itself.
        overrides: `key=value`, sweeps already expanded; `trainer=gpu` merges the fragment trainer/gpu.

    Raises:
        UserError: a file is missing or malformed, a key is unknown or missing, or a value is of a wrong type or out of
            its range; the message names the source that said it.
    """
    path = find_experiment(str(name_or_path))
    layers, variants = _read(path, path, ())
    layers.insert(0, Layer({"name": path.stem}, {"": display(path)}, path.parent))
    if variant not in (None, DEFAULT_VARIANT):
        if variant not in variants:
            known = ", ".join(variants) or "none"
            raise UserError(f"{display(path)} has no variant {variant!r}. Its variants: {known}.")
        layers += variants[variant]
        layers.append(Layer({"variant": variant}, {"": "chosen"}, path.parent))
    for override in overrides:
        layer = override_layer(override)
        (name, value), *_ = layer.tree.items()
        if isinstance(value, str) and takes_fragment(name):
            fragment = find_fragment(f"{name}/{value}", path, path, f"command line: {override!r}")
            layers += _read(fragment, path, ())[0]
            continue
        if layer.tree.get("variant", variant) != variant and layer.tree["variant"] in variants:
            raise UserError(f"command line: {override!r} would only rename; choose a variant with --variant.")
        layers.append(layer)

    tree: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    for layer in layers:
        _merge(tree, checked(layer), ExperimentConfig, "", layer, provenance)
    config = _typed(tree, provenance, path)
    said = {key: provenance.get(key, "default") for key, _ in leaves(asdict(config))}
    return Resolved(config, said, list(variants), path)


def outline(path: Path) -> tuple[str, list[str]]:
    """What an experiment's file says of itself: its description, and the names of its variants and of its bases'.

    Values are not looked at.

    Raises:
        UserError: the file or one of its bases is missing or malformed.
    """
    layers, variants = _read(path, path, ())
    return str(layers[-1].tree.get("description", "")), list(variants)


def takes_fragment(name: str) -> bool:
    """Whether `name=FRAGMENT` merges a fragment: a key of an experiment that has keys below it, and is no component,
    which has a name of its own."""
    kind = type_hints(ExperimentConfig).get(name)
    return is_dataclass(kind) and kind is not ComponentConfig


def differences(saved: Path, config: ExperimentConfig) -> list[tuple[str, Any, Any]]:
    """(full key, value in `saved`, value in `config`) where a saved configuration differs; None for no key.

    Raises:
        UserError: `saved` cannot be read.
    """
    old = dict(leaves(read_layer(saved).tree))
    new = dict(leaves(parse_yaml(to_yaml(config), "")[0]))
    return [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]


def _read(path: Path, experiment: Path, chain: tuple[Path, ...]) -> tuple[list[Layer], dict[str, list[Layer]]]:
    """The layers of a file, its bases first, and the layers of each variant that it has or inherits."""
    if path.resolve() in chain:
        circle = " -> ".join(display(file) for file in (*chain, path))
        raise UserError(f"The bases of {display(chain[0])} go round in a circle: {circle}.")
    chain = (*chain, path.resolve())
    layer = read_layer(path)
    own = {name: layer.part(f"variants.{name}", f"variant {name}") for name in layer.part("variants").tree}
    layer.tree.pop("variants", None)
    layers, variants = _with_bases(layer, path, experiment, chain)
    for name, part in own.items():
        _check_folder_name(name, f"{part.place('')}: variants")
        if name == DEFAULT_VARIANT:
            raise UserError(f"{part.place('')}: {name!r} is the experiment itself; call the variant otherwise.")
        variants.setdefault(name, []).extend(_with_bases(part, path, experiment, chain)[0])
    return layers, variants


def _with_bases(
    layer: Layer, path: Path, experiment: Path, chain: tuple[Path, ...]
) -> tuple[list[Layer], dict[str, list[Layer]]]:
    """The layers of what `base` names, then `layer` without it; and the variants of the bases."""
    bases = layer.tree.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    place = layer.place("base")
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{place}: base must be a list of fragments such as [attention/local3d], got {bases!r}.")
    layers: list[Layer] = []
    variants: dict[str, list[Layer]] = {}
    for base in bases:
        base_layers, base_variants = _read(find_fragment(base, path, experiment, place), experiment, chain)
        layers += base_layers
        for name, more in base_variants.items():
            variants.setdefault(name, []).extend(more)
    return [*layers, layer], variants


def _merge(
    tree: dict[str, Any],
    new: dict[str, Any],
    expected: Any,
    key: str,
    layer: Layer,
    provenance: dict[str, str],
) -> None:
    types = types_below(expected, new)
    for name, value in new.items():
        full_key = f"{key}.{name}" if key else name
        if full_key == "plugins":
            _merge_plugins(tree, value, layer, provenance)
            continue
        if not isinstance(value, dict):
            tree[name] = value
            provenance[full_key] = layer.place(full_key)
            continue
        old = tree.get(name)
        # An empty mapping says that there is to be nothing, such as no metric.
        if not isinstance(old, dict) or not value:
            old = tree[name] = {}
        inner = without_none(types[name])[0]
        if inner is ComponentConfig and value.get("name", old.get("name")) != old.get("name"):
            old.pop("options", None)
        _merge(old, value, inner, full_key, layer, provenance)


def _merge_plugins(tree: dict[str, Any], new: list[str], layer: Layer, provenance: dict[str, str]) -> None:
    """Unlike other lists, those of plugins add up: what brings a component along takes none away."""
    before = tree.get("plugins", [])
    tree["plugins"] = added_plugins(before, new)
    if not before or not new:
        provenance["plugins"] = layer.place("plugins")
    elif tree["plugins"] != before:
        provenance["plugins"] += f", {layer.place('plugins')}"


def _typed(tree: dict[str, Any], provenance: dict[str, str], path: Path) -> ExperimentConfig:
    merged = OmegaConf.merge(schema(), tree)
    try:
        missing = ", ".join(sorted(OmegaConf.missing_keys(merged)))
        if missing:
            raise UserError(f"{display(path)}: no value for {missing}; set it there or in one of its bases.")
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = str(error.full_key or "")
        place = provenance.get(key.partition("[")[0], display(path))
        raise UserError(f"{place}: {key}: {first_line(error)}.") from error
    assert isinstance(config, ExperimentConfig)
    check_ranges(config, "", provenance)
    check_rules(config, provenance)
    for key in ("name", "variant"):
        _check_folder_name(getattr(config, key), f"{provenance.get(key, 'default')}: {key}")
    return config


def _check_folder_name(name: str, place: str) -> None:
    if not _FOLDER_NAME.fullmatch(name):
        raise UserError(
            f"{place}: {name!r} names a folder: it cannot be empty, start with a dot, hold slashes or "
            "line breaks, or be longer than 100 letters."
        )
