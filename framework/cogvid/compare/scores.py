"""Reads `metrics.json`: values by set, metric and name, each with the hash of its protocol."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 2


@dataclass(frozen=True)
class Score:
    """What a metric said of a set of videos.

    Attributes:
        protocol: the hash of how it was measured.
        values: by name; None where the videos do not determine one.
        cautions: why a value says less than it seems to, by its name.
    """

    protocol: str
    values: dict[str, float | None]
    cautions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The content of a `metrics.json`.

    Attributes:
        sets: by set of videos and metric.
        protocols: what the hashes stand for.
        meanings: of values, by metric and name: the attributes of a `cogvid.interfaces.metric.Meaning`.
        speed: of sampling.
        lacks: what cannot be shown, and why.
    """

    sets: dict[str, dict[str, Score]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    meanings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


def read_scores(path: Path, run: str) -> Scores:
    """Read a file; what is missing, older or unreadable is said, and not shown.

    Args:
        path: the file.
        run: what to give `cogvid evaluate` to have it written again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Scores(lacks=(path.name,))
    except ValueError:
        return Scores(lacks=(f"{path.name} (cut off)",))
    try:
        return _scores(content, path.name, run)
    except (KeyError, TypeError, AttributeError, ValueError):
        return Scores(lacks=(f"{path.name} (damaged)",))


def _scores(content: dict[str, Any], name: str, run: str) -> Scores:
    sets, number = content.get("sets", {}), content.get("format", 1)
    speed = {key: float(value) for key, value in content.get("speed", {}).items()}
    if not sets:
        # Data that is tokens already has no videos to score: its held-out losses are all there is.
        return Scores(speed=speed, lacks=() if "held_out" in content else ("scores of the generated videos",))
    if number != FORMAT:
        # Its protocols leave out what the reference was: values that look alike need not be comparable.
        cause = f"older: evaluate it again with `cogvid evaluate {run}`" if number < FORMAT else "of a newer cogvid"
        return Scores(speed=speed, lacks=(f"scores in a form that is read ({name} is {cause})",))
    protocols = {str(key): dict(record) for key, record in content["protocols"].items()}
    lacks = [] if "generated" in sets else ["scores of the generated videos"]
    scores: dict[str, dict[str, Score]] = {}
    for videos, metrics in sets.items():
        for metric, found in metrics.items():
            if found["protocol"] not in protocols:
                lacks.append(f"protocol of {metric} on {videos}")
                continue
            values = {key: _finite(value) for key, value in found["values"].items()}
            cautions = {str(key): str(text) for key, text in found.get("cautions", {}).items()}
            scores.setdefault(videos, {})[metric] = Score(found["protocol"], values, cautions)
    meanings = {
        metric: {key: dict(meaning) for key, meaning in of.items()} for metric, of in content["meanings"].items()
    }
    return Scores(scores, protocols, meanings, speed, tuple(lacks))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
