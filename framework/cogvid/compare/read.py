"""Reads run folders: what each run was, cost and scored, and what it lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cogvid.compare.scores import Score, read_scores
from cogvid.compare.trouble import what_ended

TRAINING_STAGES = ("tokenizer", "image_base", "sequential", "interpolation")
STAGES = ("data", "text_tokenizer", "tokenizer", "tokens", "test_tokens", "image_base", "sequential", "interpolation")
METRICS = "metrics.json"
RUN_FILES = ("config.yaml", "plugins.json", "environment.json", METRICS)


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        identity: equal for two runs that share the stage.
        summary: numbers of `stage.json` (seconds, steps, parameters, trainable_parameters).
        losses: (step, loss) pairs.
        held_out_losses: the same of held-out samples.
        held_out: what the finished stage says of held-out samples, by name: `loss`, `loss_frame_1`, ..., or `error`
            and `psnr` of a frame tokenizer.
        held_out_on: what that was measured on.
    """

    name: str
    identity: str
    finished: bool
    summary: dict[str, float]
    losses: tuple[tuple[int, float], ...]
    held_out_losses: tuple[tuple[int, float], ...] = ()
    held_out: dict[str, float] = field(default_factory=dict)
    held_out_on: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """A run folder, or the file of an evaluation of two folders of videos.

    Attributes:
        config: resolved configuration, by dotted key; empty for an evaluation.
        environment: where it ran, by dotted key; plugins included.
        sets: scores by set of videos and metric.
        protocols: what the hashes of protocols stand for.
        meanings: of values, by metric and name, with the attributes of a `cogvid.interfaces.metric.Meaning`.
        speed: of sampling.
        videos: the first file of each (caption, rate), by set.
        lacks: what a complete run would have and this one has not.
        ended: why it ended before its time, where that is known.
        missing: whether the experiment lists it, and no folder says what it is.
    """

    folder: Path
    experiment: str
    variant: str
    seed: int
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    sets: dict[str, dict[str, Score]] = field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    meanings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)
    videos: dict[str, dict[tuple[str, float], Path]] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    ended: str = ""
    missing: bool = False


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, however little of it."""
    return any((folder / name).is_file() for name in RUN_FILES)


def read_run(folder: Path) -> RunRecord:
    """Read one run folder; what is missing or unreadable goes to `RunRecord.lacks`."""
    lacks: list[str] = []
    config = _config(folder / "config.yaml", lacks)
    plugins = _json(folder / "plugins.json", lacks)
    environment = _json(folder / "environment.json", lacks)
    scores = read_scores(folder / METRICS, str(folder))
    lacks += scores.lacks
    components = {
        f"plugin.{component['kind']}.{component['name']}": f"{component['plugin']} {component['version']}"
        for component in plugins.get("components", [])
    }
    stages = _stages(folder / "stages", lacks)
    without_videos = not scores.sets and not scores.lacks
    videos = _videos(folder / "samples", [] if without_videos else lacks)
    return RunRecord(
        folder=folder,
        experiment=str(config.get("name", folder.parent.parent.name)),
        variant=str(config.get("variant", folder.parent.name)),
        seed=int(config.get("seed", folder.name if folder.name.isdigit() else 0)),
        config=config,
        environment={**dict(_flat(environment)), **components},
        stages=stages,
        sets=scores.sets,
        protocols=scores.protocols,
        meanings=scores.meanings,
        speed=scores.speed,
        videos=videos,
        lacks=tuple(lacks),
        ended="" if (folder / METRICS).is_file() else what_ended(folder),
    )


def read_evaluation(path: Path) -> RunRecord:
    """Read what `cogvid evaluate --out` wrote: a variant named after the file, of one seed."""
    scores = read_scores(path, str(path))
    return RunRecord(
        folder=path,
        experiment="",
        variant=path.stem,
        seed=0,
        sets=scores.sets,
        protocols=scores.protocols,
        meanings=scores.meanings,
        lacks=scores.lacks,
    )


def _config(path: Path, lacks: list[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf  # half of the time that a list of runs would take

    if not path.is_file():
        lacks.append(path.name)
        return {}
    return dict(_flat(OmegaConf.to_container(OmegaConf.load(path))))


def _json(path: Path, lacks: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        lacks.append(path.name)
    except ValueError:
        lacks.append(f"{path.name} (cut off)")
    else:
        if isinstance(content, dict):
            return content
        lacks.append(f"{path.name} (damaged)")
    return {}


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf) pairs; a list and an empty mapping are leaves."""
    if isinstance(tree, dict) and (tree or not prefix):
        for key, value in tree.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _stages(folder: Path, lacks: list[str]) -> dict[str, Stage]:
    stages = {}
    for name in STAGES:
        path = folder / name
        if not path.is_dir():
            continue
        missing: list[str] = []
        summary = _json(path / "stage.json", missing)
        if missing:
            lacks.append(f"stage {name} (not finished)")
        history = list(_losses(path / "history.jsonl", name, lacks))
        stages[name] = Stage(
            name=name,
            identity=str(summary.get("key", path.resolve())),
            finished=not missing,
            summary={key: value for key, value in summary.items() if isinstance(value, int | float)},
            losses=tuple((step, loss) for step, loss, _ in history if math.isfinite(loss)),
            held_out_losses=tuple((step, loss) for step, _, loss in history if math.isfinite(loss)),
            held_out=_held_out(name, summary),
            held_out_on=summary.get("held_out_on", {}),
        )
    return stages


def _held_out(stage: str, summary: dict[str, Any]) -> dict[str, float]:
    if "held_out" not in summary:
        return {}
    if stage == "tokenizer":
        return {"error": summary["held_out"], "psnr": summary.get("held_out_psnr", math.nan)}
    frames = summary.get("held_out_frames", {})
    by_frame = {f"loss_frame_{number}": loss for number, loss in frames.items() if len(frames) > 1}
    return {"loss": summary["held_out"], **by_frame}


def _losses(path: Path, stage: str, lacks: list[str]) -> Iterator[tuple[int, float, float]]:
    """(step, loss, held-out loss), each no number where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            loss, held_out = (float(entry.get(name, math.nan)) for name in ("loss", "held_out"))
            values = int(entry["step"]), loss, held_out
        except (ValueError, KeyError, TypeError, AttributeError):
            if number < len(lines):  # the last line may be that of a run that was stopped while writing it
                lacks.append(f"line {number} of the history of stage {stage} (damaged)")
            continue
        yield values


def _videos(folder: Path, lacks: list[str]) -> dict[str, dict[tuple[str, float], Path]]:
    captions = folder / "captions.jsonl"
    if not captions.is_file():
        lacks.append("samples")
        return {}
    lines = [json.loads(line) for line in captions.read_text(encoding="utf-8").splitlines()]
    sets: dict[str, dict[tuple[str, float], Path]] = {}
    for videos in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {int(file.stem): file for file in videos.glob("*.mp4") if file.stem.isdigit()}
        for line in lines:
            if line["index"] in files:
                same = sets.setdefault(videos.name, {})
                same.setdefault((line["caption"], line["rate"]), files[line["index"]])
    return sets
