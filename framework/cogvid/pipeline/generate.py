"""Generates the clips of the test captions, and the floors and ceilings they are compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.errors import UserError
from cogvid.frame_tokenizer import FrameTokenizer
from cogvid.generation.clips import ClipGenerator
from cogvid.interpolation import InterpolationStrategy
from cogvid.pipeline.lab import Lab, TimedClip, decode_clips, read_clips
from cogvid.pipeline.prepare import decode, encode
from cogvid.pipeline.stage import Info, StageResult, StageStore, write_tensors
from cogvid.training.callbacks import stage_progress
from cogvid.video import write_video

# Small videos are written enlarged by whole factors, for people to look at.
_VIEW = 128
# Videos of each set besides `generated` that are written as files.
_SHOWN = 16


@dataclass(frozen=True)
class TestClips:
    """The first test clips that the scheduler can show, with the rates to generate each at."""

    clips: list[TimedClip]
    rates: list[float]  # of the key frames
    frames: int  # key frames

    @property
    def captions(self) -> list[str]:
        """What is generated."""
        return [timed.clip.caption for timed in self.clips]

    @property
    def seconds(self) -> list[float]:
        """Durations of the key-frame sequences."""
        return [(self.frames - 1) / rate for rate in self.rates]

    def times(self, frames: int) -> list[np.ndarray]:
        """`frames` times spread over each clip's key-frame sequence, both ends included."""
        return [np.linspace(0, seconds, frames) for seconds in self.seconds]

    def part(self, start: int, stop: int) -> TestClips:
        """Some of them."""
        return TestClips(self.clips[start:stop], self.rates[start:stop], self.frames)


def usable_test_clips(lab: Lab, data: StageResult) -> TestClips:
    """The test clips at the rates that the scheduler would generate them through."""
    frames = lab.config.video.frames
    clips = read_clips(data.folder, "test")
    rates = [lab.scheduler.generation_rates(c.duration, frames, 0) for c in clips]
    usable = [(clip, rate[0]) for clip, rate in zip(clips, rates, strict=True) if rate]
    return TestClips([c for c, _ in usable], [r for _, r in usable], frames)


def generation_stage(
    lab: Lab,
    store: StageStore,
    data: StageResult,
    tokenizer: tuple[StageResult, FrameTokenizer],
    models: dict[str, StageResult],
    generator: ClipGenerator,
) -> StageResult:
    """Generates, and writes tokens and videos of every set."""
    config = lab.config
    depends = {
        "data": data.key,
        "models": {name: stage.key for name, stage in models.items()},
        "tokenizer": tokenizer[0].key,
        "frame_rate": lab.identity("frame_rate", config.frame_rate),
        "interpolation": lab.identity("interpolation", config.interpolation),
        "generation": config.generation,
        "seed": config.seed,
    }

    def work(folder: Path) -> Info:
        chosen = usable_test_clips(lab, data)
        if len(chosen.clips) < config.generation.samples:
            raise UserError(
                f"generation.samples: {config.generation.samples} clips are wanted, but the test split has "
                f"{len(chosen.clips)} usable ones. Lower generation.samples or add test clips."
            )
        chosen = chosen.part(0, config.generation.samples)
        network, target = tokenizer[1], config.generation.frames
        size = config.video.size
        real = torch.stack([*decode_clips(chosen.clips, chosen.times(target), size, "generate: real clips")])
        keys, clips = generate_codes(lab, generator, chosen.captions, chosen.seconds, config.seed)
        videos = {"key_frames": to_videos(lab, network, keys)}
        codes = {
            "key_frames": keys,
            "real": encode(network, real.flatten(0, 1)).flatten(1).unflatten(0, real.shape[:2]),
        }
        if clips is not None:
            codes["generated"] = clips
            videos["generated"] = to_videos(lab, network, clips)
        else:
            videos["generated"] = lab.strategy.fill(videos["key_frames"], target)
        for name in ("hold", "linear"):
            strategy: InterpolationStrategy = lab.plugins.create("interpolation", name, {}, key="interpolation")
            videos[name] = strategy.fill(videos["key_frames"], target)
        videos["reconstruction"] = to_videos(lab, network, codes["real"])
        videos["real"] = real
        write_tensors(folder / "tokens.safetensors", {name: value.int() for name, value in codes.items()})
        write_tensors(folder / "videos.safetensors", videos)
        _write_videos(folder, videos, chosen)
        return {"clips": len(keys), "tokens_per_second": round(generator.tokens / generator.seconds, 1)}

    return store.finish("samples", depends, work)


def load_videos(stage: StageResult) -> dict[str, Tensor]:
    """Videos uint8 (samples, frames, 3, height, width) by set."""
    return load_file(stage.folder / "videos.safetensors")


def generate_codes(
    lab: Lab, generator: ClipGenerator, captions: Sequence[str], seconds: Sequence[float], seed: int
) -> tuple[Tensor, Tensor | None]:
    """Key frames (B, F, N) and, where the interpolation has a model, finished clips (B, target, N); with progress."""
    conditions: dict[str, Any] = {"captions": list(captions), "seconds": list(seconds), "seed": seed}
    samples = torch.arange(len(captions))
    with stage_progress() as bar:
        task = bar.add_task("generate: key frames")
        keys = generator.key_frames(
            **conditions,
            samples=samples,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        if not lab.plan:
            return keys, None
        task = bar.add_task("generate: frames between")
        clips = generator.interpolate(
            keys,
            **conditions,
            samples=samples,
            plan=lab.plan,
            target=lab.config.generation.frames,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return keys, clips


def to_videos(lab: Lab, tokenizer: FrameTokenizer, codes: Tensor) -> Tensor:
    """Codes (B, F, N) to videos uint8 (B, F, 3, height, width)."""
    grid = codes.flatten(0, 1).unflatten(-1, (lab.grid.height, lab.grid.width))
    return decode(tokenizer, grid).unflatten(0, codes.shape[:2])


def enlarge(video: Tensor) -> Tensor:
    """A video uint8 (F, 3, height, width), enlarged by a whole factor where it is small."""
    factor = max(1, _VIEW // video.shape[-1])
    return video.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _write_videos(folder: Path, videos: dict[str, Tensor], chosen: TestClips) -> None:
    rows = [
        {"index": i, "caption": caption, "rate": rate}
        for i, (caption, rate) in enumerate(zip(chosen.captions, chosen.rates, strict=True))
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, clips in videos.items():
        (folder / name).mkdir(exist_ok=True)
        for i, video in enumerate(clips if name == "generated" else clips[:_SHOWN]):
            rate = (len(video) - 1) / chosen.seconds[i]
            write_video(folder / name / f"{i:04d}.mp4", enlarge(video), rate, lossless=False)
