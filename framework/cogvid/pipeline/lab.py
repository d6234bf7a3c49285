"""An experiment's parts, built: components from plugins, the network's sizes, the clips."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torchmetrics import Metric

from cogvid.config.ranges import said
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.data.frame_format import FrameFormat
from cogvid.data.sequences import FrameTimes
from cogvid.errors import UserError
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.data_source import DataSource
from cogvid.interfaces.decoding import Decoding
from cogvid.interfaces.frame_rate import FrameRateScheduler
from cogvid.interfaces.frame_tokenizer import FrameTokenizer, token_grid
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.interpolation import InterpolationStrategy, Round, check_fill, check_plan
from cogvid.interfaces.mask import Stage
from cogvid.interfaces.metric import VideoMetric
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.digests import named_files
from cogvid.pipeline.stage import Info, as_plain
from cogvid.plugins.manager import create_plugin_manager, plugin_sources
from cogvid.training import job

log = logging.getLogger("cogvid")

# Seconds of a clip that is long enough for every rate.
LONG = 1e6


class Lab:
    """Everything an experiment names, built from its configuration.

    Args:
        config: the resolved experiment.
        sources: which file gave which key its value, for messages.

    Attributes:
        places: of the key frames on the final timeline.
        plan: the rounds behind the key frames; none for a strategy without a model.

    Raises:
        UserError: a component is unknown, its options are wrong, the strategy cannot reach the wanted frames,
            guidance has no captions left out to learn from, or the scheduler gives no rates for the rounds; the
            message names the key.
    """

    def __init__(self, config: ExperimentConfig, sources: Mapping[str, str] | None = None) -> None:
        self.config, self.sources = config, sources
        try:
            self.plugins = create_plugin_manager(config.plugins)
        except UserError as error:
            raise UserError(f"{said('plugins', sources)}plugins: {error}") from error
        self.data: DataSource | TokenSource = self._build("data", config.data, "data")
        self.scheduler: FrameRateScheduler = self._build("frame_rate", config.frame_rate, "frame_rate")
        self.strategy: InterpolationStrategy = self._build("interpolation", config.interpolation, "interpolation")
        self.attention: AttentionBackend = self._build("attention", config.attention, "attention")
        inner = config.stages.interpolation.attention
        self.interpolation_attention: AttentionBackend = (
            self._build("attention", inner, "stages.interpolation.attention") if inner else self.attention
        )
        self.decoding: Decoding = self._build("decoding", config.generation.decoding, "generation.decoding")
        self.build_text_tokenizer()  # options that are wrong are said here
        tokenizer = self.build_tokenizer()
        try:
            self.grid = token_grid(tokenizer, config.video.frames, *config.video.sides)
        except UserError as error:
            raise UserError(f"{said('video.size', sources)}video.size: {error}") from error
        self.codes = tokenizer.codebook_size
        self.places = self.strategy.key_frame_places(config.video.frames, config.generation.frames)
        self.plan = self._plan()
        self._check_given()
        self._check_guidance()
        self.clip_rates(LONG)  # a scheduler without a rate for every round says so here
        for key, metric in config.evaluation.metrics.items():
            self.plugins.configure("metric", metric.name, metric.options, f"evaluation.metrics.{key}", sources)

    @property
    def device(self) -> torch.device:
        """Where finished models generate: a GPU if there is one and the trainer may use it."""
        allowed = self.config.trainer.accelerator in ("auto", "gpu", "cuda")
        return torch.device("cuda" if allowed and torch.cuda.is_available() else "cpu")

    @property
    def frame_format(self) -> FrameFormat:
        """What the pictures of videos are made to fit, wherever they are read."""
        video = self.config.video
        return FrameFormat(*video.sides, video.fit.value)

    def build_tokenizer(self) -> FrameTokenizer:
        """A fresh frame tokenizer."""
        tokenizer: FrameTokenizer = self._build("frame_tokenizer", self.config.frame_tokenizer, "frame_tokenizer")
        return tokenizer

    def build_text_tokenizer(self) -> TextTokenizer:
        """A text tokenizer, neither trained nor loaded."""
        tokenizer: TextTokenizer = self._build("text_tokenizer", self.config.text_tokenizer, "text_tokenizer")
        return tokenizer

    def build_metrics(self) -> dict[str, VideoMetric]:
        """Fresh metrics by their key in the experiment."""
        return {key: self.build_metric(key) for key in self.config.evaluation.metrics}

    def build_metric(self, key: str) -> VideoMetric:
        """A fresh metric, by its key in the experiment."""
        metric: VideoMetric = self._build("metric", self.config.evaluation.metrics[key], f"evaluation.metrics.{key}")
        # A metric would wait for the others of a job, who wait for this process.
        for part in metric.modules():
            if isinstance(part, Metric):
                part.distributed_available_fn = lambda: job.processes() > 1
        return metric

    def floors(self) -> dict[str, InterpolationStrategy]:
        """Every strategy that needs no model, with the options it has by default: what a learned one must beat.

        One that cannot be built without options, or cannot reach the wanted frames, is no floor.
        """
        floors = {}
        for info in self.plugins.components():
            if info.kind == "interpolation" and not getattr(info.cls, "learned", True):
                with suppress(UserError):
                    strategy = self.plugins.create("interpolation", info.name)
                    self._check_fill(info.name, strategy)
                    floors[info.name] = strategy
        return floors

    def _plan(self) -> list[Round]:
        name, target = self.config.interpolation.name, self.config.generation.frames
        try:
            if not self.strategy.learned:
                self._check_fill(name, self.strategy)
                return []
            plan = self.strategy.plan(self.config.video.frames, target)
            check_plan(name, self.places, plan, target)
            return plan
        except UserError as error:
            raise UserError(f"{said('generation.frames', self.sources)}generation.frames: {error}") from error

    def _check_fill(self, name: str, strategy: InterpolationStrategy) -> None:
        config = self.config
        check_fill(name, strategy, config.video.frames, config.generation.frames, *config.video.sides)

    def _check_given(self) -> None:
        given = self.config.generation.given
        if given == self.config.video.frames and not self.plan:
            raise UserError(
                f"{said('generation.given', self.sources)}generation.given: all {given} key frames are given "
                f"(video.frames), and {self.config.interpolation.name} has no model generate another frame. Give "
                "fewer, or more frames to reach (generation.frames) by a strategy with rounds."
            )

    def _check_guidance(self) -> None:
        """Guidance asks a model for what it has learned without captions only where some are left out in training."""
        generation, stages = self.config.generation, self.config.stages
        used = {}
        if self.generates_sequentially:
            used["sequential"] = generation.sequential, stages.sequential
        if generation.image_model_first and not generation.given:
            used["first_frame"] = generation.first_frame, stages.image_base
        if self.interpolates:
            used["interpolation"] = generation.interpolation, stages.interpolation
        for part, (sampling, stage) in used.items():
            if sampling.guidance != 1 and not stage.caption_dropout:
                key = f"stages.{'image_base' if part == 'first_frame' else part}.caption_dropout"
                raise UserError(
                    f"generation.{part}.guidance: guidance of {sampling.guidance} goes away from what the model says "
                    f"without a caption, which it cannot learn while {key} is 0. Set {key} to a share of the "
                    f"sequences, such as 0.1, or generation.{part}.guidance to 1."
                )

    @property
    def generates_sequentially(self) -> bool:
        """Whether a key frame or a round is left to the sequential model: not where all key frames are given."""
        generation = self.config.generation
        return generation.given < self.config.video.frames or any(part.stage == "sequential" for part in self.plan)

    @property
    def interpolates(self) -> bool:
        """Whether the plan needs the interpolation model."""
        return any(part.stage == "interpolation" for part in self.plan)

    @property
    def clip_intervals(self) -> float:
        """A finished clip's length, in intervals between key frames: one less than its frames at their rate."""
        last = self.config.video.frames - 1
        return (self.config.generation.frames - 1) * last / ((self.places[-1] - self.places[0]) or last or 1)

    def clip_rates(self, duration: float) -> list[float]:
        """The rates (1/s) to generate a clip of `duration` seconds through: of the key frames, then of each round of
        the plan; none where no rate fits.

        Raises:
            UserError: the scheduler gives too few or too many, or one that is no rate.
        """
        frames = math.ceil(self.clip_intervals) + 1
        factors = [1.0, *(part.rate_factor for part in self.plan)]
        doublings = [max(0, math.floor(math.log2(factor))) for factor in factors]
        rounds = max(doublings)
        rates = self.scheduler.generation_rates(duration, frames, rounds)
        if rates and (len(rates) != rounds + 1 or not all(0 < rate < math.inf for rate in rates)):
            raise UserError(
                f"frame_rate: {self.config.frame_rate.name} would generate a clip of {float(duration):g} seconds "
                f"through the rates {rates}: it must give {1 + rounds}, all above 0, the key frames' and that of each "
                "doubling by interpolation, or none for a clip that is too short"
            )
        # A rate that is no power of two of the key frames' lies between two of the list.
        return [rates[n] * (f / 2**n) for n, f in zip(doublings, factors, strict=True)] if rates else []

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

    def image_config(self, vocabulary: int) -> TransformerConfig:
        """Of the image model; it has no plus channel, so that settings of that do not make it another."""
        video = ("base", "plus_init", "gate", "gate_init", "positions")
        defaults = {name: getattr(TransformerConfig, name) for name in video}
        return replace(self.video_config(vocabulary), grid=Grid(1, self.grid.height, self.grid.width), **defaults)

    def image_model(self, vocabulary: int) -> CogVideoTransformer:
        """The image model, untrained."""
        return CogVideoTransformer(self.image_config(vocabulary), None)

    def video_model(self, stage: Stage, vocabulary: int) -> CogVideoTransformer:
        """The model of one of the video stages, untrained."""
        backend = self.attention if stage == "sequential" else self.interpolation_attention
        return CogVideoTransformer(self.video_config(vocabulary), backend, stage)

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

    def generation_settings(self) -> Info:
        """`generation` of the configuration as far as it decides tokens, as plain data: an exact decoding does not, and
        of an approximate one all does that decides its behaviour."""
        settings: Info = as_plain(self.config.generation)
        del settings["decoding"]
        if not self.decoding.exact:
            settings["decoding"] = as_plain(self.identity("decoding", self.config.generation.decoding))
        return settings

    def used(self) -> list[dict[str, str]]:
        """The components of the experiment and the plugins they come from."""
        config = self.config
        named = [
            ("data", config.data),
            ("frame_rate", config.frame_rate),
            ("frame_tokenizer", config.frame_tokenizer),
            ("text_tokenizer", config.text_tokenizer),
            ("attention", config.attention),
            ("attention", config.stages.interpolation.attention),
            ("interpolation", config.interpolation),
            ("decoding", config.generation.decoding),
            *(("metric", metric) for metric in config.evaluation.metrics.values()),
        ]
        infos = [
            info
            for kind, component in named
            if component
            for info in self.plugins.used(kind, component.name, component.options)  # type: ignore[arg-type]
        ]
        return [{"kind": i.kind, "name": i.name, "plugin": i.plugin, "version": i.version} for i in infos]

    def video_config(self, vocabulary: int) -> TransformerConfig:
        """Of the models of the video stages; vocabulary: number of all tokens."""
        model = self.config.model
        return TransformerConfig(
            layers=model.layers,
            width=model.width,
            heads=model.heads,
            vocabulary=vocabulary,
            image_vocabulary=self.codes,
            text_length=self.config.text.length,
            text_positions=self.config.text.positions or self.config.text.length,
            grid=self.grid,
            positions=model.positions,
            base=model.base,
            plus_init=model.plus_init,
            gate=model.gate,
            gate_init=model.gate_init,
            checkpoint_activations=model.checkpoint_activations,
        )

    def _build(self, kind: Any, component: ComponentConfig, key: str) -> Any:
        return self.plugins.create(kind, component.name, component.options, key, self.sources)
