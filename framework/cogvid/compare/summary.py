"""From runs to a comparison: seeds averaged, and never two protocols in one row."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogvid.compare.quantities import (
    NOT_RECORDED,
    Better,
    Group,
    Protocol,
    Quantity,
    interrupted,
    measurements,
    titles,
)
from cogvid.compare.read import RunRecord

# Keys that name a run and say nothing about what it does.
_NAMES = ("name", "description", "variant", "seed", "seeds")


@dataclass(frozen=True)
class Value:
    """The mean over seeds, and their standard deviation where there is more than one."""

    mean: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One quantity under one protocol, a value for each variant.

    Attributes:
        protocol: letter of the protocol, empty where all runs share one.
        better: the direction of improvement, where there is one.
    """

    group: Group
    title: str
    unit: str
    protocol: str
    better: Better | None
    values: tuple[Value | None, ...]

    def difference(self, variant: int) -> float | None:
        """How far a variant is from the first one, if both have a value."""
        value, baseline = self.values[variant], self.values[0]
        return value.mean - baseline.mean if variant and value and baseline else None

    def verdict(self, variant: int) -> Literal["better", "worse"] | None:
        """Whether the difference to the first variant exceeds the spread of the seeds, and which way."""
        value, baseline, difference = self.values[variant], self.values[0], self.difference(variant)
        if value is None or baseline is None or not difference or self.better is None:
            return None
        if abs(difference) <= max(value.spread or 0, baseline.spread or 0):
            return None
        return "better" if (difference > 0) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Variant:
    """The runs of one variant, a seed each, under the shortest label that tells it from the others."""

    label: str
    runs: tuple[RunRecord, ...]


@dataclass(frozen=True)
class Split:
    """A metric that was measured under several protocols, and the keys in which they differ."""

    metric: str
    letters: tuple[str, ...]
    keys: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Comparison:
    """Variants side by side; the first one is the baseline.

    Attributes:
        protocols: the protocols of each metric, lettered A, B, ... in this order.
        splits: how they differ, for the metrics with more than one.
        undetermined: titles of what was measured and has no value in any run.
        config: configuration keys that differ, with the value of each variant.
        environment: the same for the environments.
        notes: what a reader must know before believing the numbers.
    """

    variants: tuple[Variant, ...]
    rows: tuple[Row, ...]
    protocols: dict[str, tuple[Protocol, ...]]
    splits: tuple[Split, ...]
    undetermined: tuple[str, ...]
    config: dict[str, tuple[str, ...]]
    environment: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def incomplete(self) -> list[RunRecord]:
        """The runs that lack something."""
        return [run for variant in self.variants for run in variant.runs if run.lacks]

    def group(self, group: Group) -> list[Row]:
        """The rows of one table."""
        return [row for row in self.rows if row.group == group]


def compare(runs: list[RunRecord]) -> Comparison:
    """Set runs side by side, by variant in the order of their first run."""
    variants = _variants(runs)
    measured: dict[Quantity, dict[str, dict[int, list[float]]]] = {}
    protocols: dict[str, dict[str, Protocol]] = {}
    for index, variant in enumerate(variants):
        for run in variant.runs:
            for found in measurements(run):
                key = json.dumps(found.protocol, sort_keys=True)
                protocols.setdefault(found.quantity.measure, {}).setdefault(key, found.protocol)
                values = measured.setdefault(found.quantity, {}).setdefault(key, {}).setdefault(index, [])
                if found.value is not None:
                    values.append(found.value)
    letters = {
        metric: {key: letter(i) if len(keys) > 1 else "" for i, key in enumerate(keys)}
        for metric, keys in protocols.items()
    }
    title = titles(measured)
    rows = [
        Row(
            group=quantity.group,
            title=title[quantity],
            unit=quantity.unit,
            protocol=label,
            better=quantity.better,
            values=tuple(_value(measured[quantity][key].get(index, [])) for index in range(len(variants))),
        )
        for quantity in sorted(measured, key=lambda quantity: quantity.place)
        for key, label in letters[quantity.measure].items()
        if key in measured[quantity]
    ]
    named = {metric: tuple(found.values()) for metric, found in protocols.items() if metric}
    return Comparison(
        variants=tuple(variants),
        rows=tuple(row for row in rows if any(row.values)),
        protocols=named,
        splits=tuple(_split(metric, found) for metric, found in named.items() if len(found) > 1),
        undetermined=tuple(
            title[quantity]
            for quantity, under in measured.items()
            if not any(values for variant in under.values() for values in variant.values())
        ),
        config=_differences(variants, lambda run: run.config, _NAMES),
        environment=_differences(variants, lambda run: run.environment),
        notes=tuple(_notes(variants)),
    )


def letter(index: int) -> str:
    """The name of a metric's protocol: A for the first one."""
    return chr(ord("A") + index)


def _variants(runs: list[RunRecord]) -> list[Variant]:
    groups: dict[tuple[Path, str, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.folder.parent, run.experiment, run.variant), []).append(run)
    # The shortest labels that tell the variants apart.
    labels = [
        [variant for _, _, variant in groups],
        [f"{experiment}/{variant}" for _, experiment, variant in groups],
        [str(folder) for folder, _, _ in groups],
    ]
    distinct = next((names for names in labels if len(set(names)) == len(groups)), labels[-1])
    return [Variant(label, tuple(group)) for label, group in zip(distinct, groups.values(), strict=True)]


def _value(values: list[float]) -> Value | None:
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.fmean(values), spread, len(values))


def _split(metric: str, protocols: tuple[Protocol, ...]) -> Split:
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    values = {key: tuple(_text(protocol.get(key, NOT_RECORDED)) for protocol in protocols) for key in keys}
    return Split(
        metric,
        tuple(letter(i) for i in range(len(protocols))),
        {key: found for key, found in values.items() if len(set(found)) > 1},
    )


def _differences(
    variants: list[Variant], properties: Callable[[RunRecord], dict[str, Any]], ignored: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Keys with more than one value among the runs; the values of a variant's seeds share a cell."""
    known = [[properties(run) for run in variant.runs if properties(run)] for variant in variants]
    keys = dict.fromkeys(key for seeds in known for run in seeds for key in run if key not in ignored)
    values = {key: [list(dict.fromkeys(_text(run.get(key, "-")) for run in seeds)) for seeds in known] for key in keys}
    return {
        key: tuple(" | ".join(cell) or "-" for cell in cells)
        for key, cells in values.items()
        if len({value for cell in cells for value in cell}) > 1
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _notes(variants: list[Variant]) -> Iterator[str]:
    for variant in variants:
        differing = _differences([variant], lambda run: run.config, _NAMES)
        if differing:
            yield f"The seeds of {variant.label} differ in more than the seed: {', '.join(differing)}."
    resumed = [v.label for v in variants if any(interrupted(run) for run in v.runs)]
    if resumed:
        yield f"Training was interrupted and resumed, so how long it took is unknown: {', '.join(resumed)}."
    dirty = [v.label for v in variants if any(run.environment.get("git_dirty") for run in v.runs)]
    if dirty:
        yield f"Run from a checkout with uncommitted changes: {', '.join(dirty)}."
