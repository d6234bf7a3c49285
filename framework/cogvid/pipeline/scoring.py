"""Every metric on every set: values, the protocol of each, and their meanings, in format 2 of `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from cogvid.interfaces.metric import VideoMetric
from cogvid.metrics.extractors import ExtractorMetric, Reading, VideoExtractor
from cogvid.metrics.protocol import protocol_hash
from cogvid.pipeline.readings import Readings
from cogvid.pipeline.stage import Info
from cogvid.pipeline.video_set import Facts, VideoSet
from cogvid.progress import stage_progress

FORMAT = 2
# The only set that paired metrics score: it alone shows the clips of `real` again.
PAIRED = "reconstruction"


@dataclass(frozen=True)
class Scored:
    """What is scored, and how.

    Attributes:
        sets: by name.
        reference: real videos of which none of the sets was made.
        paired: the real videos that the set `reconstruction` shows again; None where there is no such set.
        frames: of a whole clip: sets of fewer are key frames.
        facts: what the protocols of all values share.
        batch_size: clips that are scored at once.
    """

    sets: Mapping[str, VideoSet]
    reference: VideoSet
    paired: VideoSet | None
    frames: int
    facts: Facts
    batch_size: int


def score(metrics: Mapping[str, tuple[str, VideoMetric]], scored: Scored, readings: Readings) -> Info:
    """The parts `sets`, `protocols` and `meanings` of an evaluation.

    Args:
        metrics: the names of their components, and fresh ones, by key.
        scored: the videos.
        readings: what extractors have read before, and where it is kept.

    Raises:
        UserError: a video cannot be read, or a metric cannot score it.
    """
    sets: dict[str, Info] = {name: {} for name in scored.sets}
    protocols: dict[str, Info] = {}
    meanings: dict[str, Info] = {}
    with stage_progress() as bar:
        task = bar.add_task("evaluate", total=len(metrics))
        for key, (component, metric) in metrics.items():
            meanings[key] = {name: asdict(meaning) for name, meaning in metric.meanings.items()}
            for name, videos in scored.sets.items():
                if not _scores(metric, name, videos, scored):
                    continue
                reference = scored.paired if metric.paired and scored.paired is not None else scored.reference
                metric.reset()

                def read(
                    extractor: VideoExtractor, videos: VideoSet, title: str = f"evaluate: {name.replace('_', ' ')}"
                ) -> Reading:
                    return readings.of(extractor, videos, bar, title)

                _feed(metric, reference, videos, scored.batch_size, read)
                values = {value: _number(tensor) for value, tensor in metric.compute().items()}
                protocol = protocol_of(key, component, metric, videos, reference, scored.facts)
                name_of = protocol_hash(protocol)
                protocols[name_of] = protocol
                sets[name][key] = {"protocol": name_of, "values": values}
                if cautions := metric.cautions():
                    sets[name][key]["cautions"] = cautions
            bar.advance(task)
    return {"sets": sets, "protocols": protocols, "meanings": meanings}


def protocol_of(
    key: str, component: str, metric: VideoMetric, videos: VideoSet, reference: VideoSet, facts: Facts
) -> dict[str, str | int | float]:
    """All that another value must share to be comparable with this metric's on these videos."""
    return {
        "metric": key,
        "component": component,
        "samples": len(videos),
        "reference": reference.reference,
        "reference_clips": len(reference),
        **facts,
        **metric.protocol,
        # What the set says is said last: a metric that has seen no video knows of no frame.
        "height": videos.shape[1],
        "width": videos.shape[2],
        **videos.facts,
    }


def _scores(metric: VideoMetric, name: str, videos: VideoSet, scored: Scored) -> bool:
    if metric.paired:
        return name == PAIRED and scored.paired is not None
    return videos.shape[0] == scored.frames or metric.key_frames


def _feed(
    metric: VideoMetric,
    reference: VideoSet,
    videos: VideoSet,
    size: int,
    read: Callable[[VideoExtractor, VideoSet], Reading],
) -> None:
    sets = ((reference, True), (videos, False))
    if isinstance(metric, ExtractorMetric) and type(metric).update is ExtractorMetric.update:
        for own, real in sets:
            if len(own) and (metric.reads_real or not real):
                metric.check_shape(torch.empty(0, own.shape[0], 3, *own.shape[1:], dtype=torch.uint8))
                metric.add(read(metric.extractor, own), own.captions, real)
        return
    # In turns, batch by batch: what compares clips in pairs keeps no more than one of them.
    for batches in zip_longest(*(own.again(size) for own, _ in sets)):
        for (own, real), found in zip(sets, batches, strict=True):
            if found is not None:
                places, batch = found
                metric.update(batch, [own.captions[place] for place in places], real)


def _number(value: Tensor) -> float | None:
    """None for NaN, which JSON does not have."""
    number = float(value)
    return float(f"{number:.9g}") if number == number and abs(number) != float("inf") else None


def add_evaluation(old: Any, new: Info) -> Info:
    """An evaluation with what an earlier one of the same samples has under other keys of metrics.

    Args:
        old: what `metrics.json` held, whatever it is.
        new: what it is to hold.
    """
    if not isinstance(old, dict) or old.get("format") != FORMAT or old.get("samples") != new["samples"]:
        return new
    made = new["meanings"].keys()
    sets = {
        name: {key: value for key, value in old["sets"].get(name, {}).items() if key not in made} | own
        for name, own in new["sets"].items()
    }
    used = {entry["protocol"] for own in sets.values() for entry in own.values()}
    protocols = {name: own for name, own in (old["protocols"] | new["protocols"]).items() if name in used}
    kept: Sequence[str] = [key for key in old["meanings"] if key not in made]
    return {**old, **new, "sets": sets, "protocols": protocols} | {
        "meanings": {key: old["meanings"][key] for key in kept} | new["meanings"]
    }
