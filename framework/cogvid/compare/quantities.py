"""What was measured in a run: quantities with their values and the protocols they were measured under."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cogvid.compare.read import TRAINING_STAGES, RunRecord

Better = Literal["higher", "lower"]
Group = Literal["quality", "held_out", "bounds", "cost"]
Protocol = dict[str, Any]

# What a model makes. All other sets are bounds, what no model can beat and what every model should: shown beside the
# variants' own videos, not among them.
MADE = ("generated", "key_frames")
NOT_RECORDED = "not recorded"

_ORDER = {name: place for place, name in enumerate((*MADE, "real", "reconstruction", *TRAINING_STAGES))}
_SPEED = "speed"


@dataclass(frozen=True)
class Quantity:
    """What a value is of; values of one quantity under one protocol may share a row.

    Attributes:
        group: the table it belongs to.
        videos: the set of videos that was scored, or the stage that was trained; empty for the whole run.
        metric: what measured it.
        name: which of the metric's values.
        unit: empty, `count`, `seconds`, `nats` or `dB`.
    """

    group: Group
    videos: str
    metric: str
    name: str
    unit: str = ""

    @property
    def place(self) -> int:
        """Where it stands in its table."""
        return _ORDER.get(self.videos, len(_ORDER))

    @property
    def measure(self) -> str:
        """What has protocols: a metric, whatever it scored; of held-out losses, that of each stage."""
        return f"{self.videos} {self.metric}" if self.group == "held_out" else self.metric

    @property
    def better(self) -> Better | None:
        """Which direction is an improvement, by the names in use."""
        words = set(self.name.split("_"))
        if words & {"std", "se"}:
            return None
        if words & {"fvd", "kvd", "error", "distance", "loss", "time"}:
            return "lower"
        if words & {"is", "accuracy", "similarity", "tokens", "psnr"} or self.metric.endswith("oracle"):
            return "higher"
        return None


@dataclass(frozen=True)
class Measurement:
    """One value; None where the videos did not determine it."""

    quantity: Quantity
    value: float | None
    protocol: Protocol


def measurements(run: RunRecord) -> Iterator[Measurement]:
    """Everything that was measured in a run."""
    yield from _scores(run)
    yield from _held_out(run)
    yield from _cost(run)


def interrupted(run: RunRecord) -> bool:
    """Whether a training stage was resumed: its recorded seconds are those of the last part alone."""
    return any(run.stages[name].summary.get("resumed", 0) for name in TRAINING_STAGES if name in run.stages)


def titles(quantities: Iterable[Quantity]) -> dict[Quantity, str]:
    """A short title for each quantity: the metric is named only where the value's own name does not tell."""
    quantities = list(quantities)
    metrics: dict[str, set[str]] = {}
    for quantity in quantities:
        metrics.setdefault(quantity.name, set()).add(quantity.metric)
    found = {}
    for quantity in quantities:
        metric = quantity.metric if len(metrics[quantity.name]) > 1 else ""
        found[quantity] = " ".join(part for part in (quantity.videos, metric, quantity.name) if part)
    return {quantity: title.replace("_", " ") for quantity, title in found.items()}


def _scores(run: RunRecord) -> Iterator[Measurement]:
    for videos, metrics in run.sets.items():
        group: Group = "quality" if videos in MADE else "bounds"
        for metric, values in metrics.items():
            protocol = run.protocol.get(metric) or {"protocol": NOT_RECORDED}
            for name, value in values.items():
                known = value is not None and math.isfinite(value)
                yield Measurement(Quantity(group, videos, metric, name), value if known else None, protocol)


def _held_out(run: RunRecord) -> Iterator[Measurement]:
    units = {"error": "", "psnr": "dB"}
    for stage in (run.stages[name] for name in TRAINING_STAGES if name in run.stages):
        for name, value in stage.held_out.items():
            quantity = Quantity("held_out", stage.name, "held-out loss", f"held_out_{name}", units.get(name, "nats"))
            yield Measurement(quantity, value if math.isfinite(value) else None, stage.held_out_on)


def _cost(run: RunRecord) -> Iterator[Measurement]:
    trained = [run.stages[name] for name in TRAINING_STAGES if name in run.stages]
    for stage in trained:
        for key in ("parameters", "trainable_parameters"):
            if key in stage.summary:
                yield Measurement(Quantity("cost", stage.name, "", key, "count"), stage.summary[key], {})
    # Times are comparable only on equal hardware.
    hardware = {
        key.removeprefix("hardware."): value
        for key, value in run.environment.items()
        if key.startswith("hardware.") and key != "hardware.memory_gib"
    } or {"hardware": NOT_RECORDED}
    if trained:
        steps = sum(stage.summary.get("steps", 0) for stage in trained)
        seconds = sum(stage.summary.get("seconds", 0) for stage in trained)
        yield Measurement(Quantity("cost", "", "", "training_steps", "count"), steps, {})
        time = Quantity("cost", "", _SPEED, "training_time", "seconds")
        yield Measurement(time, None if interrupted(run) else seconds, hardware)
    for name, value in run.speed.items():
        yield Measurement(Quantity("cost", "", _SPEED, name), value, hardware)
