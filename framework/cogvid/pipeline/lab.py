"""An experiment's parts, built: components from plugins, the network's sizes, the clips."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cogvid.attention.prepare import prepare_attention
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.data.sequences import FrameTimes
from cogvid.data.video import read_frames
from cogvid.errors import UserError
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.interfaces.frame_rate import FrameRateScheduler
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.interpolation import InterpolationStrategy, Round, check_plan
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.digests import named_files
from cogvid.plugins.manager import create_plugin_manager, plugin_sources
from cogvid.progress import stage_progress

log = logging.getLogger("cogvid")
Item = TypeVar("Item")


@dataclass(frozen=True)
class TimedClip:
    """A readable clip of the data stage.

    Attributes:
        clip: file, caption and split.
        duration: seconds from its first frame to its last.
    """

    clip: Clip
    duration: float


class Lab:
    """Everything an experiment names, built from its configuration.

    Args:
        config: the resolved experiment.
        sources: which file gave which key its value, for messages.

    Attributes:
        places: of the key frames on the final timeline.
        plan: the rounds behind the key frames; none for a strategy without a model.

    Raises:
        UserError: a component is unknown, its options are wrong, or the strategy cannot reach the wanted frames;
            the message names the key.
    """

    def __init__(self, config: ExperimentConfig, sources: Mapping[str, str] | None = None) -> None:
        self.config, self.sources = config, sources
        self.plugins = create_plugin_manager(config.plugins)
        self.data: DataSource = self._build("data", config.data, "data")
        self.scheduler: FrameRateScheduler = self._build("frame_rate", config.frame_rate, "frame_rate")
        self.strategy: InterpolationStrategy = self._build("interpolation", config.interpolation, "interpolation")
        self.attention: AttentionBackend = self._build("attention", config.attention, "attention")
        inner = config.stages.interpolation.attention
        self.interpolation_attention: AttentionBackend = (
            self._build("attention", inner, "stages.interpolation.attention") if inner else self.attention
        )
        tokenizer = self.build_tokenizer()
        side, remainder = divmod(config.video.size, tokenizer.downsampling)
        if remainder:
            raise UserError(
                f"video.size: {config.video.size} pixels are not a multiple of the frame tokenizer's "
                f"{tokenizer.downsampling} pixels a token"
            )
        self.grid = Grid(config.video.frames, side, side)
        self.codes = tokenizer.codebook_size
        self.places = self.strategy.key_frame_places(config.video.frames, config.generation.frames)
        self.plan = self._plan()
        for key, metric in config.evaluation.metrics.items():
            self.plugins.configure("metric", metric.name, metric.options, f"evaluation.metrics.{key}", sources)

    @property
    def device(self) -> torch.device:
        """Where finished models generate: a GPU if there is one and the trainer may use it."""
        allowed = self.config.trainer.accelerator in ("auto", "gpu", "cuda")
        return torch.device("cuda" if allowed and torch.cuda.is_available() else "cpu")

    def check_attention(self) -> None:
        """Let the attention backends prepare for training, so that one that cannot run here says so before it starts.

        Raises:
            UserError: one of them cannot; the message names its key.
        """
        todo: list[tuple[str, AttentionBackend, Stage]] = [("attention", self.attention, "sequential")]
        if self.interpolates:
            todo.append(("stages.interpolation.attention", self.interpolation_attention, "interpolation"))
        for key, backend, stage in todo:
            try:
                mask = Visibility(backend.pattern, self.grid, given_frames(stage, self.grid.frames), layer=0)
                prepare_attention(backend, mask, self.device)
            except UserError as error:
                raise UserError(f"{key}: {error}") from error

    def build_tokenizer(self) -> FrameTokenizer:
        """A fresh frame tokenizer."""
        tokenizer: FrameTokenizer = self._build("frame_tokenizer", self.config.frame_tokenizer, "frame_tokenizer")
        return tokenizer

    def build_metrics(self) -> dict[str, Any]:
        """Fresh metrics by their key in the experiment."""
        metrics = self.config.evaluation.metrics
        return {key: self._build("metric", m, f"evaluation.metrics.{key}") for key, m in metrics.items()}

    def floors(self) -> dict[str, InterpolationStrategy]:
        """Every strategy that needs no model, with the options it has by default: what a learned one must beat."""
        floors = {}
        for info in self.plugins.components():
            if info.kind == "interpolation" and not getattr(info.cls, "learned", True):
                with suppress(UserError):  # one that cannot be built without options is no floor
                    floors[info.name] = self.plugins.create("interpolation", info.name)
        return floors

    def _plan(self) -> list[Round]:
        if not self.strategy.learned:
            return []
        target = self.config.generation.frames
        plan = self.strategy.plan(self.config.video.frames, target)
        check_plan(self.config.interpolation.name, self.places, plan, target)
        return plan

    @property
    def interpolates(self) -> bool:
        """Whether the plan needs the interpolation model."""
        return any(part.stage == "interpolation" for part in self.plan)

    @property
    def clip_intervals(self) -> float:
        """A finished clip's length, in intervals between key frames: one less than its frames at their rate."""
        last = self.config.video.frames - 1
        return (self.config.generation.frames - 1) * last / ((self.places[-1] - self.places[0]) or last or 1)

    def clip_rate(self, duration: float) -> float | None:
        """The key frames' rate (1/s) to generate a clip of `duration` seconds at; None where no rate fits."""
        frames = math.ceil(self.clip_intervals) + 1
        return next(iter(self.scheduler.generation_rates(duration, frames, 0)), None)

    @property
    def key_frame_times(self) -> FrameTimes:
        """The sequence of key frames."""
        return tuple(float(i) for i in range(self.config.video.frames))

    @property
    def window_times(self) -> list[FrameTimes]:
        """The windows of all interpolation rounds: what generation will ask for is what training shows.

        Sequential rounds ask for sequences like the key frames'. A window behind the last key frame is shown as many
        whole intervals earlier as it takes to lie between key frames.
        """
        last = self.config.video.frames - 1
        windows = []
        for part in self.plan:
            for window in part.windows if part.stage == "interpolation" else ():
                times = [frame / self._interval for frame in window.frames]
                early = max(0, math.ceil(times[-1] - last))
                windows.append(tuple(time - early for time in times))
        return list(dict.fromkeys(windows))

    @property
    def _interval(self) -> float:
        """Final frames from one key frame to the next."""
        return (self.places[-1] - self.places[0]) / max(self.config.video.frames - 1, 1)

    def image_config(self, text_vocabulary: int) -> TransformerConfig:
        """Of the image model; it has no plus channel, so that settings of that do not make it another."""
        defaults = {name: getattr(TransformerConfig, name) for name in ("plus_init", "gate_init")}
        return replace(self.video_config(text_vocabulary), grid=Grid(1, self.grid.height, self.grid.width), **defaults)

    def image_model(self, text_vocabulary: int) -> CogVideoTransformer:
        """The image model, untrained."""
        return CogVideoTransformer(self.image_config(text_vocabulary), None)

    def video_model(self, stage: Stage, text_vocabulary: int) -> CogVideoTransformer:
        """The model of one of the video stages, untrained."""
        backend = self.attention if stage == "sequential" else self.interpolation_attention
        return CogVideoTransformer(self.video_config(text_vocabulary), backend, stage)

    @property
    def text_offset(self) -> int:
        """The first text token in the model's vocabulary: behind the image tokens and begin-of-image."""
        return self.codes + 1

    def identity(self, kind: str, component: ComponentConfig | None) -> Any:
        """What decides a component's behaviour: name, options, the files that these name, and version and sources of
        its plugins."""
        if component is None:
            return None
        used = self.plugins.used(kind, component.name, component.options)  # type: ignore[arg-type]
        return {
            "name": component.name,
            "options": component.options,
            "files": named_files(component.options),
            "versions": [info.version for info in used],
            "sources": {name: digest for info in used for name, digest in plugin_sources(info).items()},
        }

    def used(self) -> list[dict[str, str]]:
        """The components of the experiment and the plugins they come from."""
        config = self.config
        named = [
            ("data", config.data),
            ("frame_rate", config.frame_rate),
            ("frame_tokenizer", config.frame_tokenizer),
            ("attention", config.attention),
            ("attention", config.stages.interpolation.attention),
            ("interpolation", config.interpolation),
            *(("metric", metric) for metric in config.evaluation.metrics.values()),
        ]
        infos = [
            info
            for kind, component in named
            if component
            for info in self.plugins.used(kind, component.name, component.options)  # type: ignore[arg-type]
        ]
        return [{"kind": i.kind, "name": i.name, "plugin": i.plugin, "version": i.version} for i in infos]

    def video_config(self, text_vocabulary: int) -> TransformerConfig:
        """Of the models of the video stages."""
        model = self.config.model
        return TransformerConfig(
            layers=model.layers,
            width=model.width,
            heads=model.heads,
            vocabulary=self.text_offset + text_vocabulary,
            image_vocabulary=self.codes,
            text_length=self.config.text.length,
            text_positions=self.config.text.length,
            grid=self.grid,
            positions=model.positions,
            plus_init=model.plus_init,
            gate_init=model.gate_init,
            checkpoint_activations=model.checkpoint_activations,
        )

    def _build(self, kind: Any, component: ComponentConfig, key: str) -> Any:
        return self.plugins.create(kind, component.name, component.options, key, self.sources)


def read_clips(folder: Path, split: str) -> list[TimedClip]:
    """The readable clips of a finished data stage."""
    rows = map(json.loads, (folder / "clips.jsonl").read_text().splitlines())
    return [
        TimedClip(Clip(row["id"], folder / row["path"], row["caption"], row["split"]), row["duration"])
        for row in rows
        if row["split"] == split
    ]


def decode_clips(clips: list[TimedClip], times: list[np.ndarray], size: int, title: str) -> Iterator[Tensor]:
    """Frames uint8 (T, 3, size, size) of each clip at its times, in order, with progress."""
    return with_progress(lambda i: read_frames(clips[i].clip.path, times[i].tolist(), size), len(clips), title)


def with_progress(work: Callable[[int], Item], count: int, title: str) -> Iterator[Item]:
    """`work(0)`, `work(1)`, ... in two threads, shown as a progress bar."""
    with stage_progress() as bar, ThreadPoolExecutor(2) as pool:
        yield from bar.track(pool.map(work, range(count)), total=count, description=title)
