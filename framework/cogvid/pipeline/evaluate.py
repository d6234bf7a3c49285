"""Scores the generated clips beside their floors and ceilings, all under one protocol."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cogvid.interfaces.metric import check_videos
from cogvid.pipeline.clips import decode_clips
from cogvid.pipeline.generate import load_videos, usable_test_clips
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.progress import stage_progress


def evaluation_stage(lab: Lab, store: StageStore, data: StageResult, samples: StageResult) -> StageResult:
    """Every metric on every set: `stage.json` gets the values by set and metric, and the protocols.

    Sets are compared with real test videos that none of them was made from: those without a caption among the first
    `generation.samples`, as many where there are as many.
    """
    config = lab.config
    height, width = config.video.sides
    depends = {
        "samples": samples.key,
        "metrics": {key: lab.identity("metric", metric) for key, metric in config.evaluation.metrics.items()},
    }

    def work(folder: Path) -> Info:
        count = config.generation.samples
        usable = usable_test_clips(lab, data)
        chosen = usable.first(count)
        others = usable.beside(chosen, count)
        videos = load_videos(samples)
        if config.evaluation.metrics and len(others.clips) < count:
            log.warning(
                "evaluation: only %d real test videos are left to compare %d generated ones with; "
                "the compared metrics are the less certain",
                len(others.clips),
                count,
            )
        target = config.generation.frames
        decoded = [*decode_clips(others.clips, others.numbers(target), lab.frame_format, "evaluate: real")]
        reference = torch.stack(decoded) if decoded else videos["real"][:0]
        sets: dict[str, dict[str, dict[str, float | None]]] = {name: {} for name in videos}
        protocol: dict[str, Info] = {}
        with stage_progress() as bar:
            for key, metric in bar.track(lab.build_metrics().items(), description="evaluate"):
                for name, scored in videos.items():
                    if scored.shape[1] != target and not metric.key_frames:
                        continue
                    metric.reset()
                    _feed(metric, reference, others.captions, True, config.evaluation.batch_size)
                    _feed(metric, scored, chosen.captions, False, config.evaluation.batch_size)
                    values = {value: float(tensor) for value, tensor in metric.compute().items()}
                    sets[name][key] = {v: None if x != x else round(x, 6) for v, x in values.items()}
                    if name == "generated":
                        shared = {
                            "frames": target,
                            "resolution": height if height == width else f"{height}x{width}",
                            "fit": config.video.fit.value,
                            "samples": count,
                            "split": "test",
                            **({"given": config.generation.given} if config.generation.given else {}),
                        }
                        protocol[key] = {
                            "reference_clips": len(reference),
                            "data": data.key,
                            **shared,
                            **metric.protocol,
                        }
        return {"sets": sets, "protocol": protocol}

    return store.finish("metrics", depends, work)


def _feed(metric, videos: Tensor, captions: list[str], real: bool, batch: int) -> None:  # type: ignore[no-untyped-def]
    check_videos(videos)
    for start in range(0, len(videos), batch):
        metric.update(videos[start : start + batch], captions[start : start + batch], real)
