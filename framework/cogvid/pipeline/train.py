"""The transformer's stages: the image base, then the sequential and the interpolation model on top of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvid.config.schema import PlusInit, StageConfig
from cogvid.data.rows import RowSamples
from cogvid.data.samples import FrameSampler, SequenceSampler, TokenSamples
from cogvid.data.sequences import FrameTimes
from cogvid.data.tokens import TokenClips
from cogvid.interfaces.mask import Stage
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.budget import stage_seconds, stage_settings
from cogvid.pipeline.image_base_file import image_base_from_file
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.previews import Previews
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.pipeline.tensor_file import write_tensors
from cogvid.pipeline.text_stage import load_text
from cogvid.pipeline.weights import load_weights, read_weights, save_weights
from cogvid.training import job
from cogvid.training.checkpoint_files import CHECKPOINTS
from cogvid.training.fit import HISTORY, fit
from cogvid.training.held_out import HeldOutSamples, held_out_info
from cogvid.training.length import Length
from cogvid.training.next_token import TransformerModule
from cogvid.training.sharding import Sharding, check_shardable
from cogvid.training.strategies import sharded

MODEL = "model.safetensors"
# What a stage starts with, where numbers are drawn that several processes share out.
START = "start.safetensors"
_SCRATCH = (START, CHECKPOINTS)
OTHER_MODEL = ("another model's weights", "Use the run folder's own config.yaml, or train the stage again.")


class TransformerStages:
    """Trains and loads the three transformers of a run.

    Args:
        lab: the experiment's parts.
        store: of the stages.
        text: the finished text tokenizer.
        tokens: the finished tokens.
        clips: the tokenised training clips, or the source of sequences that are tokens already.
        previews: write videos while a stage trains, if there is something to write.
        test_tokens: the finished tokens of held-out clips; a token source has held-out sequences itself, or none.
        callbacks: of every training, beside its own.
    """

    def __init__(
        self,
        lab: Lab,
        store: StageStore,
        text: StageResult,
        tokens: StageResult,
        clips: TokenClips | TokenSource,
        previews: Previews | None,
        test_tokens: StageResult | None = None,
        callbacks: Sequence[pl.Callback] = (),
    ) -> None:
        self.lab, self.store, self.text_stage, self.tokens, self.clips = lab, store, text, tokens, clips
        self.text = load_text(lab, text)
        self.previews, self.test_tokens, self.callbacks = previews, test_tokens, callbacks
        if isinstance(clips, TokenSource) and not clips.held_out:
            log.info("data: %s holds no sequences out, so no stage reports a held-out loss", lab.config.data.name)

    def image_base(self) -> StageResult:
        """Text to one frame: the model that the video stages build on and never change; trained, or from a file."""
        config = self.lab.config
        weights = config.stages.image_base.weights
        if weights is not None:
            return image_base_from_file(self.lab, self.store, self.text.vocabulary, Path(weights))
        settings = stage_settings(self.lab, "image_base")
        depends = {
            "stage": settings,
            **self._seconds("image_base"),
            **self._common(self.lab.image_config(self.text.vocabulary)),
        }

        def work(folder: Path) -> Info:
            network, sharding = self._begin(folder, lambda: self.lab.image_model(self.text.vocabulary))
            windows = [self.lab.key_frame_times]
            return self._train("image_base", folder, network, settings, windows, sharding)

        return self.store.finish("image_base", depends, work, together=True, scratch=_SCRATCH)

    def video(self, stage: Stage, base: StageResult, start: StageResult | None = None) -> StageResult:
        """One video stage: as published, a plus channel on the frozen base.

        Args:
            stage: which.
            base: the image base.
            start: the finished stage whose plus channel this one starts from; None to start from the base.
        """
        config = self.lab.config
        sequential = stage == "sequential"
        attention = config.attention if sequential else config.stages.interpolation.attention or config.attention
        settings = stage_settings(self.lab, stage)
        windows = [self.lab.key_frame_times] if sequential else self.lab.window_times
        depends = {
            "base": base.key,
            "start": start.key if start else None,
            "attention": self.lab.identity("attention", attention),
            "stage": settings,
            **self._seconds(stage),
            "windows": windows,
            # What the sequential stage learns depends on it; said only where it is not the published way.
            **({} if config.generation.image_model_first or not sequential else {"first_frame": True}),
            **self._common(self.lab.video_config(self.text.vocabulary)),
        }

        def build() -> CogVideoTransformer:
            network = self.lab.video_model(stage, self.text.vocabulary)
            if network.config.plus_init is PlusInit.random:
                # Built and dropped: what a seed draws after it, the later positions, stays what it has always been.
                self.lab.image_model(self.text.vocabulary)
            return network

        def starting(network: CogVideoTransformer) -> dict[str, Tensor]:
            with torch.device("meta"):
                image_model = self.lab.image_model(self.text.vocabulary)
            state = network.start(read_weights(image_model, base.folder / MODEL, *OTHER_MODEL))
            if start is not None:
                weights = load_file(start.folder / MODEL)
                # Another attention may have another bias, or none: that part starts anew.
                same = network.state_dict().keys() if self.lab.interpolation_attention is self.lab.attention else ()
                state |= {name: w for name, w in weights.items() if name in same or ".bias." not in name}
            return state

        def work(folder: Path) -> Info:
            network, sharding = self._begin(folder, build, starting)
            return self._train(stage, folder, network, settings, windows, sharding)

        return self.store.finish(stage, depends, work, together=True, scratch=_SCRATCH)

    def show(self, name: str, stage: StageResult) -> None:
        """Let the previews of later stages use the model of a finished one."""
        if self.previews is not None:
            vocabulary = self.text.vocabulary
            network = (
                self.lab.image_model(vocabulary)
                if name == "image_base"
                else self.lab.video_model("sequential", vocabulary)
            )
            self.previews.models[name] = load_model(network, stage)

    def _seconds(self, name: str) -> Info:
        seconds = stage_seconds(self.lab, name)
        return {"seconds": seconds} if seconds else {}

    def _common(self, model: TransformerConfig) -> Info:
        config = self.lab.config
        return {
            "model": model,
            "text": self.text_stage.key,
            "tokens": self.tokens.key,
            "held_out": self.test_tokens.key if self.test_tokens else config.held_out,
            "precision": config.trainer.precision,
            "seed": config.seed,
        }

    def held_out_samples(self, name: str, windows: list[FrameTimes]) -> HeldOutSamples | None:
        """One sample of each held-out clip or sequence, drawn as those to train on are, but for the seed."""
        seed, clips = self.lab.config.data_seed, self.clips
        if isinstance(clips, TokenSource):
            count = min(len(clips.held_out), self.lab.config.held_out.clips)
            samples = self._samples(clips, name, windows, seed, 0.0)
            assert isinstance(samples, RowSamples)
            return HeldOutSamples.of(replace(samples, rows=clips.held_out), count) if count else None
        if self.test_tokens is None:
            return None
        held_out = TokenClips(self.test_tokens.folder, clips.clip_table)
        return HeldOutSamples.of(self._samples(held_out, name, windows, seed, 0.0), len(held_out))

    def _samples(
        self,
        clips: TokenClips | TokenSource,
        name: str,
        windows: list[FrameTimes],
        seed: int,
        caption_dropout: float,
    ) -> TokenSamples | RowSamples:
        lab, config = self.lab, self.lab.config
        stills = config.stages.image_base.stills if name == "image_base" else None
        if isinstance(clips, TokenSource):
            return RowSamples(clips, self.text, seed, stills, caption_dropout)
        sequences = SequenceSampler(clips, lab.scheduler, windows, config.video.frames, seed)
        if stills is None:
            return TokenSamples(sequences, self.text, caption_dropout)
        anywhere = replace(sequences, windows=[*windows, *lab.window_times])
        return TokenSamples(FrameSampler(sequences, anywhere, stills), self.text, caption_dropout)

    def _seed(self, name: str) -> int:
        return self.lab.config.seed * 10 + ("image_base", "sequential", "interpolation").index(name)

    def _begin(
        self,
        folder: Path,
        build: Callable[[], CogVideoTransformer],
        starting: Callable[[CogVideoTransformer], Mapping[str, Tensor]] | None = None,
    ) -> tuple[CogVideoTransformer, Sharding | None]:
        """The network of a stage as it begins, with what trains; on the meta device where it is to be shared out.

        Args:
            folder: of the stage.
            build: gives the network, untrained.
            starting: for a video stage, the state that it starts with, without what is drawn; of a network like it.
        """
        config = self.lab.config

        def begun() -> CogVideoTransformer:
            torch.manual_seed(config.seed)
            network = build()
            if starting is not None:
                network.load_state_dict(starting(network), strict=False)
                network.freeze()
            return network

        if not sharded(config.trainer):
            return begun(), None
        with job.said_once():
            with torch.device("meta"):
                network = build()
            check_shardable(network)
            state = {} if starting is None else starting(network)
        if starting is not None:
            network.freeze()
        if network.state_dict().keys() - state.keys():
            # The rest is drawn, as one process draws it.
            job.once(lambda: write_tensors(folder / START, begun().state_dict()))
            state = load_file(folder / START)
        return network, Sharding(config.trainer.fsdp2, state)

    def _train(
        self,
        name: str,
        folder: Path,
        network: CogVideoTransformer,
        settings: StageConfig,
        windows: list[FrameTimes],
        sharding: Sharding | None,
    ) -> Info:
        config = self.lab.config
        if sharding is not None and self.previews is not None:
            log.info("no previews: they need whole networks, and trainer.strategy=fsdp2 shares them out")
            self.previews = None
        samples = self._samples(self.clips, name, windows, self._seed(name), settings.caption_dropout)
        held_out = self.held_out_samples(name, windows)
        first = config.generation.image_model_first
        parts, begin = config.trainer.accumulate, self.text.begin_of_image
        module = TransformerModule(network, settings, begin, image_model_first=first, parts=parts, sharding=sharding)
        module.length = Length(settings.steps, stage_seconds(self.lab, name))
        steps = fit(
            module,
            samples,
            folder,
            config.trainer,
            title=name,
            seed=self._seed(name),
            names=lambda numbers: [samples.name(number) for number in numbers],
            callbacks=[*self.callbacks, *([self.previews.callback(name)] if self.previews else [])],
            held_out=held_out,
        )
        save_weights(network, folder / MODEL)
        return {
            "steps": steps,
            "parameters": sum(p.numel() for p in network.parameters()),
            "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
            **(held_out_info(folder / HISTORY, held_out) if job.leads() else {}),
        }


def load_model(
    network: CogVideoTransformer,
    stage: StageResult,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    like: CogVideoTransformer | None = None,
) -> CogVideoTransformer:
    """Put a finished stage's weights into a network of its shape; eval mode.

    Args:
        network: on the CPU or the meta device.
        stage: whose weights.
        device, dtype: of the network then; its own if None.
        like: a loaded network, whose tensors it shares where they are equal.

    Raises:
        UserError: the file holds another model's weights; the message names the first tensor that differs.
    """
    shared = dict(like.named_parameters()) if like else None
    load_weights(network, stage.folder / MODEL, *OTHER_MODEL, device=device, dtype=dtype, shared=shared)
    return network.eval()
