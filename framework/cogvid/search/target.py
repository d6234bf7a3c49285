"""What a search looks for: which value of a run, and whether lower or higher ones are better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cogvid.compare.quantities import MADE, Measurement, measurements
from cogvid.compare.read import TRAINING_STAGES, read_run
from cogvid.config.options import nearest
from cogvid.config.ranges import said
from cogvid.config.schema import InterpolationStart, SearchConfig
from cogvid.errors import UserError
from cogvid.interfaces.token_source import TokenSource
from cogvid.pipeline.lab import Lab

_HELD_OUT, _METRICS = "held_out", "metrics"


@dataclass(frozen=True)
class Target:
    """A value that every run of the experiment has in the end.

    Attributes:
        name: as the experiment says it.
        key: of the quantity that `cogvid compare` shows.
        better: `lower` or `higher` values.
        stage: whose held-out loss it is; empty for a metric.
    """

    name: str
    key: str
    better: str
    stage: str = ""


def target_of(search: SearchConfig, lab: Lab) -> Target:
    """The target of a search.

    Args:
        search: of the experiment.
        lab: the experiment's parts.

    Raises:
        UserError: no run of the experiment has such a value, or what is better is not known, or said wrongly.
    """
    kind, _, rest = search.target.partition(".")
    if kind == _HELD_OUT:
        return _held_out(search, lab, rest)
    if kind == _METRICS:
        return _metric(search, lab, rest)
    _refuse(
        search,
        lab,
        f"is neither a held-out loss ({_HELD_OUT}.STAGE) nor a value of a metric ({_METRICS}.generated.METRIC.VALUE)",
    )


def trained_stages(lab: Lab) -> list[str]:
    """The stages that a run of an experiment trains."""
    stages = lab.config.stages
    tokens = isinstance(lab.data, TokenSource)
    inherits = lab.interpolates and stages.interpolation.start is InterpolationStart.sequential
    trained = {
        "tokenizer": stages.tokenizer.weights is None and not tokens,
        "image_base": stages.image_base.weights is None,
        "sequential": lab.generates_sequentially or inherits,
        "interpolation": lab.interpolates,
    }
    return [name for name in TRAINING_STAGES if trained[name]]


def value_of(target: Target, run: Path) -> Measurement | None:
    """What a run has of the target; None where there is nothing, or nothing that the videos determine.

    Args:
        target: of a search.
        run: the run's folder.
    """
    for found in measurements(read_run(run)):
        if found.quantity.key == target.key and not found.bound:
            return found if found.value is not None else None
    return None


def _held_out(search: SearchConfig, lab: Lab, stage: str) -> Target:
    trained = trained_stages(lab)
    if stage not in trained:
        _refuse(search, lab, f"is the loss of a stage that this experiment does not train.{nearest(stage, trained)}")
    if isinstance(lab.data, TokenSource) and not lab.data.held_out:
        _refuse(search, lab, f"has no sequences to be measured on: {lab.config.data.name} holds none out")
    value = "error" if stage == "tokenizer" else "loss"
    return Target(search.target, f"{stage}.held-out.{value}", _better(search, lab, "lower"), stage)


def _metric(search: SearchConfig, lab: Lab, rest: str) -> Target:
    videos, _, value = rest.partition(".")
    key, _, value = value.partition(".")
    metrics = lab.config.evaluation.metrics
    if videos not in MADE:
        _refuse(search, lab, f"is of no set of videos that a model makes.{nearest(videos, MADE)}")
    if isinstance(lab.data, TokenSource):
        _refuse(search, lab, "is of videos, and data that is tokens already has none to compare generated ones with")
    if key not in metrics:
        _refuse(search, lab, f"is of no metric in evaluation.metrics.{nearest(key, metrics)}")
    metric = lab.build_metric(key)
    if metric.paired or (videos == "key_frames" and not metric.key_frames):
        _refuse(search, lab, f"is never measured: {metrics[key].name} does not score the set {videos!r}")
    if value not in metric.meanings:
        _refuse(search, lab, f"is no value of {metrics[key].name}.{nearest(value, metric.meanings)}")
    return Target(search.target, rest, _better(search, lab, metric.meanings[value].better))


def _better(search: SearchConfig, lab: Lab, declared: str | None) -> str:
    place = f"{said('search.direction', lab.sources)}search.direction: "
    if declared is None and search.direction is None:
        raise UserError(f"{place}nobody declares what is better of {search.target}: say lower or higher.")
    if declared is not None and search.direction not in (None, declared):
        raise UserError(f"{place}{search.target} is better where it is {declared}: leave the direction out.")
    return declared or str(search.direction)


def _refuse(search: SearchConfig, lab: Lab, why: str) -> NoReturn:
    end = "" if why.endswith(".") else "."
    raise UserError(f"{said('search.target', lab.sources)}search.target: {search.target} {why}{end}")
