"""From runs to a comparison: seeds averaged, and never two protocols in one row."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cogvid.compare.read import TRAINING_STAGES, Run

Better = Literal["higher", "lower"]
Protocol = dict[str, Any]
Group = Literal["quality", "bounds", "cost"]

# What no model can beat and what every model should: shown beside the variants, not among them.
BOUNDS = ("real", "reconstruction", "linear", "hold")
NOT_RECORDED = "not recorded"

# Keys that name a run and say nothing about what it does.
_NAMES = ("name", "description", "variant", "seed")
_SPEED = "speed"


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
    label: str
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Split:
    """A metric that was measured under several protocols, and the keys in which they differ."""

    metric: str
    letters: tuple[str, ...]
    keys: dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Comparison:
    """Variants side by side; the first one is the baseline.

    Attributes:
        protocols: the protocols of each metric, lettered A, B, ... in this order.
        splits: how they differ, for the metrics with more than one.
        config: configuration keys that differ, with the value of each variant.
        environment: the same for the environments.
        notes: what a reader must know before believing the numbers.
    """

    variants: tuple[Variant, ...]
    rows: tuple[Row, ...]
    protocols: dict[str, tuple[Protocol, ...]]
    splits: tuple[Split, ...]
    config: dict[str, tuple[str, ...]]
    environment: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def incomplete(self) -> list[Run]:
        """The runs that lack something."""
        return [run for variant in self.variants for run in variant.runs if run.lacks]

    def group(self, group: Group) -> list[Row]:
        return [row for row in self.rows if row.group == group]


@dataclass(frozen=True)
class _Quantity:
    """What a measurement is of; measurements of one quantity under one protocol may share a row."""

    group: Group
    set: str
    metric: str
    name: str
    unit: str = ""


def compare(runs: list[Run]) -> Comparison:
    """Set runs side by side, by variant in the order of their first run."""
    variants = _variants(runs)
    measured: dict[_Quantity, dict[str, dict[int, list[float]]]] = {}
    protocols: dict[str, dict[str, Protocol]] = {}
    for index, variant in enumerate(variants):
        for run in variant.runs:
            for quantity, value, protocol in _measurements(run):
                key = json.dumps(protocol, sort_keys=True, default=str)
                protocols.setdefault(quantity.metric, {}).setdefault(key, protocol)
                values = measured.setdefault(quantity, {}).setdefault(key, {}).setdefault(index, [])
                if value is not None:
                    values.append(value)
    letters = {
        metric: {key: chr(ord("A") + i) if len(keys) > 1 else "" for i, key in enumerate(keys)}
        for metric, keys in protocols.items()
    }
    titles = _titles(measured)
    rows = [
        Row(
            group=quantity.group,
            title=titles[quantity],
            unit=quantity.unit,
            protocol=letter,
            better=better(quantity.metric, quantity.name),
            values=tuple(_value(under[key].get(index, [])) for index in range(len(variants))),
        )
        for quantity, under in measured.items()
        for key, letter in letters[quantity.metric].items()
        if key in under
    ]
    order = {name: i for i, name in enumerate(("generated", "key_frames", *BOUNDS))}
    place = {titles[quantity]: order.get(quantity.set, len(order)) for quantity in measured}
    shared = {metric: tuple(keys.values()) for metric, keys in protocols.items() if metric}
    return Comparison(
        variants=tuple(variants),
        rows=tuple(sorted(rows, key=lambda row: place[row.title])),
        protocols=shared,
        splits=tuple(_split(metric, found) for metric, found in shared.items() if len(found) > 1),
        config=_differences(variants, lambda run: run.config, _NAMES),
        environment=_differences(variants, lambda run: run.environment),
        notes=tuple(_notes(variants)),
    )


def better(metric: str, name: str) -> Better | None:
    """Which direction of a value is an improvement, by the names in use for it."""
    words = {metric, *name.split("_")}
    if words & {"fvd", "kvd", "error", "distance", "loss", "seconds"}:
        return None if words & {"std", "stderr", "spread"} else "lower"
    if words & {"is", "inception", "accuracy", "similarity", "tokens"} or metric.endswith("oracle"):
        return None if words & {"std", "stderr", "spread"} else "higher"
    return None


def _variants(runs: list[Run]) -> list[Variant]:
    folders: dict[Any, list[Run]] = {}
    for run in runs:
        folders.setdefault((run.folder.parent, run.experiment, run.variant), []).append(run)
    groups = list(folders.values())
    for label in (
        lambda run: run.variant,
        lambda run: f"{run.experiment}/{run.variant}",
        lambda run: str(run.folder.parent),
    ):
        labels = [label(group[0]) for group in groups]
        if len(set(labels)) == len(groups):
            break
    return [Variant(name, tuple(group)) for name, group in zip(labels, groups, strict=True)]


def _measurements(run: Run) -> Iterator[tuple[_Quantity, float | None, Protocol]]:
    for videos, metrics in run.sets.items():
        for metric, values in metrics.items():
            protocol = run.protocol.get(metric) or {"protocol": NOT_RECORDED}
            for name, value in values.items():
                finite = value if value is not None and math.isfinite(value) else None
                yield _Quantity("bounds" if videos in BOUNDS else "quality", videos, metric, name), finite, protocol
    for stage in TRAINING_STAGES:
        if stage in run.stages:
            summary = run.stages[stage].summary
            for key, words in (("parameters", "parameters"), ("trainable_parameters", "of them trainable")):
                if key in summary:
                    yield _Quantity("cost", "", "", f"{stage}: {words}", "count"), summary[key], {}
    trained = [run.stages[name].summary for name in TRAINING_STAGES if name in run.stages]
    if trained:
        yield _Quantity("cost", "", "", "training steps", "count"), sum(s.get("steps", 0) for s in trained), {}
    # Times are only comparable on equal hardware.
    hardware = {
        key.removeprefix("hardware."): value
        for key, value in run.environment.items()
        if key.startswith("hardware.")
    } or {"hardware": NOT_RECORDED}
    if trained:
        seconds = sum(s.get("seconds", 0.0) for s in trained)
        yield _Quantity("cost", "", _SPEED, "training_seconds", "seconds"), seconds, hardware
    for name, value in run.speed.items():
        yield _Quantity("cost", "", _SPEED, name), value, hardware


def _titles(quantities: Iterable[_Quantity]) -> dict[_Quantity, str]:
    """A short title for each quantity: the metric is named only where the value's own name does not tell."""
    metrics: dict[str, set[str]] = {}
    for quantity in quantities:
        metrics.setdefault(quantity.name, set()).add(quantity.metric)
    titles = {}
    for quantity in quantities:
        name = quantity.name if len(metrics[quantity.name]) == 1 else f"{quantity.metric} {quantity.name}"
        titles[quantity] = f"{quantity.set} {name}".replace("_", " ").strip()
    return titles


def _value(values: list[float]) -> Value | None:
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Value(statistics.fmean(values), spread, len(values))


def _split(metric: str, protocols: tuple[Protocol, ...]) -> Split:
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    values = {key: tuple(protocol.get(key, NOT_RECORDED) for protocol in protocols) for key in keys}
    return Split(
        metric,
        tuple(chr(ord("A") + i) for i in range(len(protocols))),
        {key: found for key, found in values.items() if any(value != found[0] for value in found)},
    )


def _differences(
    variants: list[Variant], properties: Callable[[Run], dict[str, Any]], ignored: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for variant in variants for run in variant.runs for key in properties(run))
    table = {}
    for key in keys:
        cells = tuple(
            " | ".join(dict.fromkeys(_text(properties(run).get(key, "-")) for run in variant.runs))
            for variant in variants
        )
        if key not in ignored and (len(set(cells)) > 1 or " | " in cells[0]):
            table[key] = cells
    return table


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _notes(variants: list[Variant]) -> Iterator[str]:
    for variant in variants:
        configs = [{k: v for k, v in run.config.items() if k not in _NAMES} for run in variant.runs if run.config]
        differing = sorted(
            {key for config in configs for key in config if any(c.get(key) != config[key] for c in configs)}
        )
        if differing:
            yield f"The seeds of {variant.label} were not run with one configuration: {', '.join(differing)}."
    dirty = [v.label for v in variants if any(run.environment.get("git_dirty") for run in v.runs)]
    if dirty:
        yield f"Run with uncommitted changes: {', '.join(dirty)}."
