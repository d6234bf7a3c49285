"""What was measured in a run: quantities with their values and the protocols they were measured under."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cogvid.compare.comparison import Better, Group
from cogvid.compare.read import TRAINING_STAGES, RunRecord, Stage
from cogvid.compare.scores import Score

# What a model makes. All other sets are bounds: what no model can beat, and what every model should.
MADE = ("generated", "key_frames")
NOT_RECORDED = "not recorded"

_SPEEDS = {"tokens_per_second": ("tokens per second", "Tokens generated in a second.", "tokens/s")}
_APART = "Not measured side by side, so never judged."
_COUNTS = {
    "parameters": ("parameters", "Numbers in the model of this stage, those included that it does not train."),
    "trainable_parameters": ("trained parameters", "Numbers that this stage trains."),
}


@dataclass(frozen=True)
class Quantity:
    """What a value is of; values of one quantity under one protocol may share a column.

    Attributes:
        group: as `Column.group`.
        of: the set of videos that was scored, or the stage that was trained; empty for the whole run.
        metric: what measured it.
        name: which of the metric's values.
        title: as the following ones those of a `Column`; they do not tell two quantities apart.
        judged: whether variants may be called better or worse by it.
    """

    group: Group
    of: str
    metric: str
    name: str
    title: str = field(compare=False)
    text: str = field(compare=False)
    unit: str = field(default="", compare=False)
    better: Better | None = field(default=None, compare=False)
    headline: bool = field(default=False, compare=False)
    judged: bool = field(default=True, compare=False)

    @property
    def key(self) -> str:
        """Of its column, but for the protocol."""
        return ".".join(part for part in (self.of, self.metric, self.name) if part)

    @property
    def measure(self) -> str:
        """What has protocols: a metric on a set of videos; the held-out losses of a stage; speed."""
        return " ".join(part for part in (self.of if self.of != "generated" else "", self.metric) if part)


@dataclass(frozen=True)
class Measurement:
    """One value.

    Attributes:
        bound: the set of a floor or ceiling that it is of; empty for what the model made.
        value: None where the videos did not determine it.
        protocol: the hash of the record; empty where values need none to be comparable.
        record: what the protocol is.
        error: the metric's own standard error, if it gives one.
        caution: why it says less than it seems to, if so.
    """

    quantity: Quantity
    value: float | None
    bound: str = ""
    protocol: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    error: float | None = None
    caution: str = ""


def measurements(run: RunRecord) -> Iterator[Measurement]:
    """Everything that was measured in a run."""
    for videos in (*MADE, *(name for name in run.sets if name not in MADE)):
        for metric, score in run.sets.get(videos, {}).items():
            yield from _scores(run, videos, metric, score)
    yield from _held_out(run)
    yield from _cost(run)


def interrupted(run: RunRecord) -> bool:
    """Whether a training stage was resumed: its recorded seconds are those of the last part alone."""
    return any(run.stages[name].summary.get("resumed", 0) for name in TRAINING_STAGES if name in run.stages)


def _scores(run: RunRecord, videos: str, metric: str, score: Score) -> Iterator[Measurement]:
    meanings = run.meanings.get(metric, {})
    errors = {meaning.get("error") for meaning in meanings.values()}
    known = [name for name in meanings if name in score.values]
    for name in known + [name for name in score.values if name not in meanings and name not in errors]:
        meaning = meanings.get(name, {})
        title = meaning.get("title") or f"{metric} {name}".replace("_", " ")
        key_frames = videos == "key_frames"
        quantity = Quantity(
            group="quality",
            of=videos if key_frames else "generated",
            metric=metric,
            name=name,
            title=f"key frames: {title}" if key_frames else title,
            text=f"{meaning.get('text', '')}{' Of the key frames alone.' if key_frames else ''}".strip(),
            unit=meaning.get("unit", ""),
            better=meaning.get("better"),
            headline=bool(meaning.get("headline")) and not key_frames,
        )
        yield Measurement(
            quantity,
            score.values[name],
            "" if videos in MADE else videos,
            score.protocol,
            run.protocols[score.protocol],
            score.values.get(meaning.get("error", "")),
            score.cautions.get(name, ""),
        )


def _held_out(run: RunRecord) -> Iterator[Measurement]:
    trained = [run.stages[name] for name in TRAINING_STAGES if name in run.stages]
    losses = [stage.name for stage in trained if "loss" in stage.held_out]
    main = "sequential" if "sequential" in losses else losses[-1] if losses else ""
    for stage in trained:
        for name, value in stage.held_out.items():
            record = stage.held_out_on or {"samples": NOT_RECORDED}
            quantity = _held_out_quantity(stage, name, headline=name == "loss" and stage.name == main)
            finite = value if math.isfinite(value) else None
            yield Measurement(quantity, finite, protocol=record_hash(record), record=record)


def _held_out_quantity(stage: Stage, name: str, headline: bool) -> Quantity:
    title = f"{stage.name.replace('_', ' ')} held-out"
    if name == "psnr":
        text = "Peak signal-to-noise ratio of the frame tokenizer on frames of clips that nothing trained on."
        return Quantity("held_out", stage.name, "held-out", name, f"{title} PSNR", text, "dB", "higher")
    if name == "error":
        text = "Squared error of the frame tokenizer on frames of clips that nothing trained on."
        return Quantity("held_out", stage.name, "held-out", name, f"{title} error", text, "", "lower")
    frame = name.removeprefix("loss").replace("_", " ")
    text = "Nats a token on sequences that nothing trained on, the same ones for all variants."
    return Quantity(
        "held_out", stage.name, "held-out", name, f"{title} loss{frame}", text, "nats", "lower", headline=headline
    )


def _cost(run: RunRecord) -> Iterator[Measurement]:
    trained = [run.stages[name] for name in TRAINING_STAGES if name in run.stages]
    for stage in trained:
        for key, (title, text) in _COUNTS.items():
            if key in stage.summary:
                quantity = Quantity(
                    "cost", stage.name, "", key, f"{stage.name.replace('_', ' ')} {title}", text, "count"
                )
                yield Measurement(quantity, stage.summary[key])
    # Times are comparable only on equal hardware, and judged not even there: nothing ran side by side.
    hardware = {
        key.removeprefix("hardware."): "none" if value is None else value
        for key, value in run.environment.items()
        if key.startswith("hardware.") and key != "hardware.memory_gib"
    } or {"hardware": NOT_RECORDED}
    protocol = record_hash(hardware)
    if trained:
        steps = Quantity("cost", "", "", "training_steps", "training steps", "Of all stages together.", "count")
        yield Measurement(steps, sum(stage.summary.get("steps", 0) for stage in trained))
        text = f"Of all stages together, shared ones included. {_APART}"
        time = Quantity("cost", "", "speed", "training_time", "training time", text, "seconds", headline=True)
        seconds = sum(stage.summary.get("seconds", 0) for stage in trained)
        yield Measurement(time, None if interrupted(run) else seconds, protocol=protocol, record=hardware)
    for name, value in run.speed.items():
        title, text, unit = _SPEEDS.get(name, (name.replace("_", " "), "As the run said.", ""))
        yield Measurement(
            Quantity("cost", "", "speed", name, title, f"{text} {_APART}", unit),
            value,
            protocol=protocol,
            record=hardware,
        )


def record_hash(record: dict[str, Any]) -> str:
    """Of a record that no metric wrote, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
