"""Groups runs into variants: named ones in the order of the experiment file, then those of sweeps by value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvid.compare.read import RunRecord

# Keys that name a run and say nothing about what it does.
NAMES = ("name", "description", "variant", "seed", "seeds")
# As `cogvid run key=1,2` names the variants it makes: `variant+key-value`.
_SWEPT = re.compile(r"([A-Za-z_][\w.]*)-(.*)")


@dataclass(frozen=True)
class Variant:
    """The runs of one variant, a seed each, under the shortest label that tells it from the others.

    Attributes:
        base: the label without what a sweep changed.
        swept: keys of a sweep with their values here.
    """

    label: str
    runs: tuple[RunRecord, ...]
    base: str = ""
    swept: dict[str, str] = field(default_factory=dict)


def variants_of(runs: Sequence[RunRecord]) -> list[Variant]:
    """All variants; named ones come in the order of their first run."""
    groups: dict[tuple[Path, str, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.folder.parent, run.experiment, run.variant), []).append(run)
    parts = [_parts(group[0]) for group in groups.values()]
    short = shortened({key for _, swept in parts for key in swept})
    named = ["" if swept and variant == "default" else variant for variant, swept in parts]
    # The shortest names that tell the variants apart.
    choices = [
        named,
        [f"{experiment}/{name}" for (_, experiment, _), name in zip(groups, named, strict=True)],
        [str(folder if experiment else group[0].folder) for (folder, experiment, _), group in groups.items()],
    ]
    values = [", ".join(f"{short[key]}={value}" for key, value in swept.items()) for _, swept in parts]
    labels = [[f"{base} {value}".strip() for base, value in zip(bases, values, strict=True)] for bases in choices]
    best = next((index for index, own in enumerate(labels) if len(set(own)) == len(groups)), -1)
    found = [
        Variant(label, tuple(group), base, swept)
        for label, group, base, (_, swept) in zip(labels[best], groups.values(), choices[best], parts, strict=True)
    ]
    order = list(dict.fromkeys(variant.base for variant in found))
    swept = sorted(
        (variant for variant in found if variant.swept),
        key=lambda variant: (order.index(variant.base), _by_value(variant.swept)),
    )
    return [variant for variant in found if not variant.swept] + swept


def differences(
    variants: Sequence[Variant], properties: Callable[[RunRecord], dict[str, Any]], ignored: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Keys with more than one value among the runs; the values of a variant's seeds share a cell."""
    known = [[properties(run) for run in variant.runs if properties(run)] for variant in variants]
    keys = dict.fromkeys(key for seeds in known for run in seeds for key in run if key not in ignored)
    values = {
        key: [list(dict.fromkeys(as_text(run.get(key, "-")) for run in seeds)) for seeds in known] for key in keys
    }
    return {
        key: tuple(" | ".join(cell) or "-" for cell in cells)
        for key, cells in values.items()
        if len({value for cell in cells for value in cell}) > 1
    }


def as_text(value: Any) -> str:
    """A value of a configuration or a protocol."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _parts(run: RunRecord) -> tuple[str, dict[str, str]]:
    """The variant that a sweep began with, and the swept keys with their values; none for a named variant."""
    name, *changes = run.variant.split("+")
    swept = {}
    for change in changes:
        match = _SWEPT.fullmatch(change)
        key = match[1] if match else ""
        # A fragment of several keys, such as attention=local3d, goes by the name of its component.
        known = [found for found in (key, f"{key}.name") if found in run.config]
        if match is None or not (known or any(other.startswith(f"{key}.") for other in run.config)):
            return run.variant, {}
        swept[key] = as_text(run.config[known[0]]) if known else match[2]
    return name, swept


def shortened(keys: Iterable[str]) -> dict[str, str]:
    """The shortest ends of dotted keys that tell them apart."""
    keys = list(keys)

    def end(key: str, length: int) -> str:
        return ".".join(key.split(".")[-length:])

    return {
        key: next(
            end(key, length)
            for length in range(1, key.count(".") + 2)
            if end(key, length) == key or sum(end(other, length) == end(key, length) for other in keys) == 1
        )
        for key in keys
    }


def _by_value(swept: dict[str, str]) -> tuple[tuple[str, bool, float, str], ...]:
    """Orders numbers as numbers, and text behind them."""
    return tuple((key, *_number(value)) for key, value in sorted(swept.items()))


def _number(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
