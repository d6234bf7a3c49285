"""Scores the generated clips of a run beside their floors and ceilings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from pathlib import Path

from torch import Tensor

from cogvid.data.files import VideoFile
from cogvid.data.frame_format import RESIZE
from cogvid.data.messages import in_messages
from cogvid.data.reading import DECODE, read_frames
from cogvid.data.table import ClipTable
from cogvid.pipeline.clips import TABLE
from cogvid.pipeline.generate import TestClips, usable_test_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.readings import Readings
from cogvid.pipeline.scoring import FORMAT, Scored, add_evaluation, score
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_json
from cogvid.pipeline.tensor_file import read_tensors
from cogvid.pipeline.video_set import Shown, VideoSet, several, tensor_set, timing_facts

METRICS = "metrics.json"
VIDEOS = "videos.safetensors"
# Of the store: what extractors have read, for all runs.
FEATURES = "features"


def evaluation_stage(lab: Lab, store: StageStore, data: StageResult, samples: StageResult) -> StageResult:
    """Every metric on every set: `stage.json` gets the parts `sets`, `protocols` and `meanings` of `metrics.json`.

    Sets are compared with real test videos that none of them was made from: those without a caption among the first
    `generation.samples`, as many where there are as many. Paired metrics compare `reconstruction` with `real`.
    """
    config = lab.config
    depends = {
        "samples": samples.key,
        "metrics": {key: lab.identity("metric", metric) for key, metric in config.evaluation.metrics.items()},
        "protocol": config.evaluation.protocol,
    }

    def work(folder: Path) -> Info:
        scored = run_sets(lab, data, samples)
        count = len(scored.sets["generated"])
        if config.evaluation.metrics and len(scored.reference) < count:
            log.warning(
                "evaluation: only %d real test videos are left to compare %d generated ones with; "
                "the compared metrics are the less certain",
                len(scored.reference),
                count,
            )
        metrics = {key: (config.evaluation.metrics[key].name, metric) for key, metric in lab.build_metrics().items()}
        readings = Readings(store.root / FEATURES, config.evaluation.batch_size, lab.device)
        return score(metrics, scored, readings)

    return store.finish("metrics", depends, work)


def write_metrics(folder: Path, metrics: StageResult, samples: StageResult, speed: StageResult, held_out: Info) -> None:
    """Write a run's `metrics.json`; what it has under other keys of metrics of the same samples stays.

    Args:
        folder: of the run.
        metrics: the evaluation.
        samples: what it is of.
        speed: what says how fast the run's decoding is.
        held_out: losses by stage.
    """
    path = folder / METRICS
    try:
        old = json.loads(path.read_bytes())
    except (OSError, ValueError):
        old = None
    made = {part: metrics.info[part] for part in ("sets", "protocols", "meanings")}
    fast = {"tokens_per_second": speed.info["tokens_per_second"]}
    new = {"format": FORMAT, "samples": samples.key, **made, "speed": fast, "held_out": held_out}
    write_json(path, add_evaluation(old, new))


def run_sets(lab: Lab, data: StageResult, samples: StageResult) -> Scored:
    """The sets of a run's samples, and the real clips that they are compared with; no pixel is read yet."""
    config = lab.config
    whole = config.generation.frames
    frames = config.evaluation.protocol.frames or whole
    usable = usable_test_clips(lab, data)
    chosen = usable.first(config.generation.samples)
    others = usable.beside(chosen, config.generation.samples)
    videos = read_tensors(samples.folder / VIDEOS)
    content = samples.info.get("outputs", {}).get(VIDEOS) or samples.key
    sets = {}
    for name, clips in videos.items():
        own = clips[:, :frames] if clips.shape[1] == whole else clips
        # Of the first frames of a clip; from first to last of what is scored.
        rates = [(clips.shape[1] - 1) / seconds for seconds in chosen.durations]
        facts = timing_facts(own.shape[1], rates, [(own.shape[1] - 1) / rate for rate in rates if rate])
        sets[name] = tensor_set(own, f"{content}/{name}", chosen.captions, facts)
    return Scored(
        sets,
        _real_set(lab, data, others, frames),
        _real_set(lab, data, chosen, frames),
        frames,
        _facts(lab, data, chosen, others),
        config.evaluation.batch_size,
    )


def _real_set(lab: Lab, data: StageResult, tests: TestClips, frames: int) -> VideoSet:
    """Test clips as they are decoded: the frames that generated ones have."""
    form, digests = lab.frame_format, [digest for (digest,) in _known(data, tests, "sha256")]
    numbers = [own[:frames] for own in tests.numbers(lab.config.generation.frames)]
    shown = [
        Shown(timed.clip.id, digest, tuple((own + timed.first).tolist()), tuple(timed.times.seconds[own].tolist()))
        for timed, digest, own in zip(tests.clips, digests, numbers, strict=True)
    ]
    pixels = {"decode": DECODE, "fit": form.fit, "resize": RESIZE}
    keys = [f"{clip.content} {_short(clip.numbers)}" for clip in shown]
    shape = (frames, form.height, form.width)

    def read(places: Sequence[int]) -> Generator[Tensor, None, None]:
        def work(place: int) -> Tensor:
            return read_frames(VideoFile.of(tests.clips[place].clip), shown[place].numbers, form)

        yield from in_messages(work, places, frames * 3 * form.height * form.width)

    return VideoSet(keys, tests.captions, shape, pixels, {}, read, shown)


def _facts(lab: Lab, data: StageResult, chosen: TestClips, others: TestClips) -> dict[str, str | int | float]:
    """What all values of a run share."""
    config = lab.config
    given = {"given": config.generation.given} if config.generation.given else {}
    return {
        "protocol": config.evaluation.protocol.name or "the experiment's own",
        "scored": "tensors",
        "real_codec": several([" ".join(kind).strip() for kind in _known(data, others, "codec", "pixel_format")])
        or "none",
        "decode": DECODE,
        "fit": config.video.fit.value,
        "frames_resize": RESIZE,
        "split": "test",
        "prompts": _short(chosen.captions),
        **given,
    }


def _known(data: StageResult, tests: TestClips, *names: str) -> list[tuple[str, ...]]:
    """Columns of the data stage's table, of these clips; tables of earlier versions lack some."""
    rows = ClipTable.open(data.folder / TABLE).used("test")
    there = [name for name in names if name in rows.columns]
    values = {
        row["id"]: tuple((row[name] or "") if name in there else "not recorded" for name in names)
        for row in rows.values("id", *there)
    }
    return [values[timed.clip.id] for timed in tests.clips]


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
