"""What a run will need, before anything runs: parameters, work, memory, time, files and disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cogvid.config.schema import ExperimentConfig, InterpolationStart, StageConfig
from cogvid.errors import UserError
from cogvid.inspect.doctor_files import free_disk, missing_files
from cogvid.inspect.doctor_flops import attention_flops, attention_pairs
from cogvid.inspect.doctor_hardware import Hardware
from cogvid.inspect.doctor_memory import DDP, FLOAT, FSDP2, ONE, Memory, Sizes, memory
from cogvid.inspect.doctor_step import OPTIMISER, Step, meta_network, tokenizer_step, transformer_step
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.mask import Stage
from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import TransformerConfig
from cogvid.pipeline.budget import stage_seconds, stage_settings
from cogvid.pipeline.lab import Lab

# Text tokens of the 2022 release: what is taken where a tokenizer cannot say how many it has.
_RELEASED_TEXT = 130_010
# A tokenizer of more parameters is not run to see what it takes.
_SMALL = 100_000_000
_CHECKPOINTS = 2  # that are kept


@dataclass(frozen=True)
class StageNeeds:
    """What a stage will need.

    Attributes:
        name: of the stage.
        parameters, trained: how many; the others are frozen.
        sequence_tokens: slots of a sequence, the text's among them; 0 for the frame tokenizer, which has pixels.
        batch_size: sequences of a step, of all processes.
        steps: optimiser steps; 0 where nothing is trained.
        dense_flops, attention_flops: of a step of all processes, forward and backward; None where it is not known.
        memory: of one process, for each strategy.
        seconds: of all steps at the utilisation that was assumed.
        disk: bytes that it leaves, and those that it has beside them while it trains.
        note: what else there is to say.
    """

    name: str
    parameters: int
    trained: int
    sequence_tokens: int
    batch_size: int
    steps: int
    dense_flops: float | None = None
    attention_flops: float | None = None
    memory: list[Memory] = field(default_factory=list)
    seconds: float | None = None
    disk: float = 0.0
    note: str = ""

    @property
    def flops(self) -> float | None:
        """Of a step of all processes."""
        return None if self.dense_flops is None else self.dense_flops + (self.attention_flops or 0)


@dataclass(frozen=True)
class Needs:
    """What a run will need.

    Attributes:
        stages: in their order.
        parameters: of all distinct weights: the base is in both video stages, and counts once.
        processes: of the job.
        strategy: that the configuration chooses.
        hardware: of each process.
        utilisation: share of its peak that was assumed.
        vocabulary: of the transformers, and where the number comes from.
        missing: files that are named and not there: key and path.
        disk: bytes that the stages will write, and those that are free there.
        findings: what stands in the way of the run, and what to do.
    """

    stages: list[StageNeeds]
    parameters: int
    processes: int
    strategy: str
    hardware: Hardware
    utilisation: float
    vocabulary: tuple[int, str]
    missing: list[tuple[str, str]]
    disk: tuple[float, float]
    findings: list[str]


def examine(lab: Lab, hardware: Hardware, utilisation: float, runs: Path) -> Needs:
    """Look at an experiment; nothing is made, and nothing large is allocated.

    Args:
        lab: its parts; `trainer.devices` and `num_nodes` say how many processes there are.
        hardware: of each process.
        utilisation: share of its peak that training reaches.
        runs: folder of all runs, for the disk.
    """
    config = lab.config
    trainer = config.trainer
    processes = trainer.devices * trainer.num_nodes
    strategy = ONE if processes == 1 else FSDP2 if trainer.strategy == "fsdp2" else DDP
    vocabulary = _vocabulary(lab)
    looked_at = _Stages(lab, hardware, utilisation, processes, vocabulary[0])
    stages = [*looked_at.stages()]
    missing = missing_files(config)
    by_name = {stage.name: stage for stage in stages}
    distinct = by_name["image_base"].parameters + sum(
        stage.trained for stage in stages if stage.name in ("sequential", "interpolation")
    )
    disk = (sum(stage.disk for stage in stages), float(free_disk(runs)))
    findings = [f"{key}: {path} is not there." for key, path in missing]
    findings += [each for stage in stages if stage.steps for each in _findings(stage, config, strategy, hardware)]
    if disk[0] > disk[1]:
        findings.append(
            f"--runs: the stages write {disk[0] / 1e9:,.1f} GB, and {disk[1] / 1e9:,.1f} GB are free there."
        )
    return Needs(stages, distinct, processes, strategy, hardware, utilisation, vocabulary, missing, disk, findings)


def _vocabulary(lab: Lab) -> tuple[int, str]:
    """All tokens of the model, and where the number of text tokens comes from."""
    tokenizer = lab.build_text_tokenizer()
    own = getattr(tokenizer.config, "vocabulary", None)
    if isinstance(own, int) and type(tokenizer).train is not TextTokenizer.train:
        words, source = own, "the most that text_tokenizer.options.vocabulary allows"
    else:
        try:
            words, source = tokenizer.vocabulary, "the text tokenizer's own"
        except (UserError, AttributeError):
            words, source = _RELEASED_TEXT, "an estimate: as many text tokens as the 2022 release has"
    try:
        begins = tokenizer.begin_of_image is None
    except (UserError, AttributeError):
        begins = False  # its file has the token, and is not there
    return lab.codes + begins + words, source


@dataclass(frozen=True)
class _Stages:
    lab: Lab
    hardware: Hardware
    utilisation: float
    processes: int
    vocabulary: int

    def stages(self) -> Iterator[StageNeeds]:
        lab, stages = self.lab, self.lab.config.stages
        if not isinstance(lab.data, TokenSource) or stages.tokenizer.weights is not None:
            yield self._tokenizer()
        base = self._image_base()
        yield base
        sequential = self._video("sequential", base, None)
        yield sequential
        if lab.interpolates:
            start = sequential if stages.interpolation.start is InterpolationStart.sequential else None
            yield self._video("interpolation", base, start or sequential)

    @property
    def _gpu(self) -> bool:
        return not self.hardware.measured

    @property
    def _half(self) -> torch.dtype | None:
        precision = self.lab.config.trainer.precision
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)

    def _tokenizer(self) -> StageNeeds:
        lab, settings = self.lab, self.lab.config.stages.tokenizer
        with torch.device("meta"):
            parameters = sum(p.numel() for p in lab.build_tokenizer().parameters())
        needs = StageNeeds("tokenizer", parameters, 0, 0, settings.batch_size, 0, note="taken from a file")
        if settings.weights is not None:
            return needs
        needs = replace(needs, trained=parameters, steps=settings.steps, note="frames, no sequences")
        share = self._share(settings, 1)
        if parameters > _SMALL:
            return replace(needs, note="too large to be looked at: memory and FLOPs are not known")
        try:
            step = tokenizer_step(lab.build_tokenizer, settings, lab.config.video.sides, share, self._gpu)
        except Exception as error:  # a plugin's own code
            return replace(needs, note=f"its training step cannot be looked at: {type(error).__name__}")
        return self._complete(needs, step, Sizes(parameters, parameters), settings, 0.0, share)

    def _image_base(self) -> StageNeeds:
        settings = stage_settings(self.lab, "image_base")
        config = self.lab.image_config(self.vocabulary)
        given = self.lab.config.stages.image_base.weights is not None
        return self._transformer("image_base", config, None, "sequential", 1, settings, 0.0, given)

    def _video(self, name: Stage, base: StageNeeds, earlier: StageNeeds | None) -> StageNeeds:
        lab, settings = self.lab, stage_settings(self.lab, name)
        backend = lab.attention if name == "sequential" else lab.interpolation_attention
        frames = lab.grid.frames
        if name == "interpolation" and not isinstance(lab.data, TokenSource):
            frames = max(len(window) for window in lab.window_times)
        previews = not isinstance(lab.data, TokenSource) and lab.config.trainer.strategy != "fsdp2"
        kept = FLOAT * (base.parameters + (earlier.parameters if earlier else 0)) if previews and not self._gpu else 0
        return self._transformer(name, lab.video_config(self.vocabulary), backend, name, frames, settings, kept, False)

    def _transformer(
        self,
        name: str,
        config: TransformerConfig,
        backend: AttentionBackend | None,
        stage: Stage,
        frames: int,
        settings: StageConfig,
        kept: float,
        given: bool,
    ) -> StageNeeds:
        sizes = _sizes(config, backend, stage)
        tokens = config.text_length + frames * config.grid.frame_tokens
        needs = StageNeeds(name, sizes.all, sizes.trained, tokens, settings.batch_size, settings.steps)
        if given:
            whole = FLOAT * sizes.all
            return replace(needs, trained=0, steps=0, disk=whole, note="taken from a file")
        parts = self.lab.config.trainer.accumulate
        share = self._share(settings, parts)
        step = transformer_step(
            config,
            backend,
            stage,
            settings,
            frames=frames,
            batch=share,
            parts=parts,
            half=self._half,
            image_model_first=self.lab.config.generation.image_model_first,
            foreach=self._gpu,
        )
        pairs = sum(attention_pairs(config, backend, stage, frames))
        flops = attention_flops(config, pairs, share * parts * self.processes)
        return self._complete(replace(needs, attention_flops=flops), step, sizes, settings, kept, share * parts)

    def _share(self, settings: StageConfig, parts: int) -> int:
        """Sequences of a process in one part of a step; where the batch does not divide, the most that one has."""
        return -(-settings.batch_size // (self.processes * parts))

    def _complete(
        self, needs: StageNeeds, step: Step, sizes: Sizes, settings: StageConfig, kept: float, batch: int
    ) -> StageNeeds:
        trainer, found = self.lab.config.trainer, []
        for strategy in (ONE,) if self.processes == 1 else (DDP, FSDP2):
            found.append(
                memory(
                    step,
                    sizes,
                    strategy,
                    self.processes,
                    reshard=trainer.fsdp2.reshard,
                    ema=settings.ema > 0,
                    kept=kept,
                    process=self.hardware.process,
                    host=not self._gpu,
                )
            )
        dense = step.dense_flops * self.processes
        needs = replace(needs, dense_flops=dense, memory=found)
        assert needs.flops is not None
        step_seconds = needs.flops / (self.hardware.flops * self.utilisation * self.processes)
        steps = settings.steps or max(1, round(stage_seconds(self.lab, needs.name) / step_seconds))
        state = FLOAT * sizes.trained * (1 + (settings.ema > 0)) + step.peak[OPTIMISER]
        return replace(needs, steps=steps, seconds=steps * step_seconds, disk=FLOAT * sizes.all + _CHECKPOINTS * state)


def _sizes(config: TransformerConfig, backend: AttentionBackend | None, stage: Stage) -> Sizes:
    """Numbers of a network's parameters, from one of a single layer: all blocks are equal."""
    one = meta_network(replace(config, layers=1), backend, stage)
    block = _count(one.layers[0])
    rest, rest_trained = (n - m for n, m in zip(_count(one), block, strict=True))
    whole = (rest + config.layers * block[0], rest_trained + config.layers * block[1])
    return Sizes(*whole, *block, rest, rest_trained)


def _count(module: torch.nn.Module) -> tuple[int, int]:
    parameters = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return sum(n for n, _ in parameters), sum(n for n, trained in parameters if trained)


def _findings(stage: StageNeeds, config: ExperimentConfig, strategy: str, hardware: Hardware) -> Iterator[str]:
    trainer = config.trainer
    processes = trainer.devices * trainer.num_nodes
    parts = 1 if stage.name == "tokenizer" else trainer.accumulate
    if stage.batch_size % (processes * parts):
        yield (
            f"stages.{stage.name}.batch_size: {stage.batch_size} does not divide among {processes} processes"
            + (f" and {parts} parts (trainer.accumulate)" if parts > 1 else "")
            + f"; take a multiple of {processes * parts}."
        )
    chosen = next((each for each in stage.memory if each.strategy == strategy), None)
    if chosen is None or chosen.total <= hardware.memory:
        return
    other = next((each for each in stage.memory if each.strategy == FSDP2), None)
    advice = []
    if strategy != FSDP2:
        if other and other.total <= hardware.memory:
            advice.append(f"trainer.strategy=fsdp2, with which it takes {other.total / 1e9:,.1f} GB")
        elif other is None:
            advice.append("more devices and trainer.strategy=fsdp2, which shares out weights and optimiser state")
    if not config.model.checkpoint_activations and stage.name != "tokenizer":
        advice.append("model.checkpoint_activations=true")
    if stage.batch_size > processes * parts and stage.name != "tokenizer":
        advice.append(f"trainer.accumulate={2 * parts}")
    if trainer.precision == "32-true" and not hardware.measured:
        advice.append("trainer.precision=bf16-mixed")
    if not advice:
        advice.append("more devices, or a smaller model")
    yield (
        f"stages.{stage.name}: a process takes {chosen.total / 1e9:,.1f} GB with {strategy}, and {hardware.title} has "
        f"{hardware.memory / 1e9:,.1f} GB for it. Try {'; or '.join(advice)}."
    )
