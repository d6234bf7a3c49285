"""The transformer's stages: the image base, then the sequential and the interpolation model on top of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from cogvid.config.schema import StageConfig
from cogvid.data.rows import RowSamples
from cogvid.data.samples import FrameSampler, SequenceSampler, TokenSamples
from cogvid.data.sequences import FrameTimes
from cogvid.data.tokens import TokenClips
from cogvid.interfaces.mask import Stage
from cogvid.interfaces.token_source import TokenSource
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.pipeline.image_base_file import image_base_from_file
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.previews import Previews
from cogvid.pipeline.stage import Info, StageResult, StageStore
from cogvid.pipeline.tensor_file import write_tensors
from cogvid.pipeline.text_stage import load_text
from cogvid.pipeline.weights import load_weights
from cogvid.training import job
from cogvid.training.fit import LAST, fit
from cogvid.training.next_token import TransformerModule


class TransformerStages:
    """Trains and loads the three transformers of a run.

    Args:
        lab: the experiment's parts.
        store: of the stages.
        text: the finished text tokenizer.
        tokens: the finished tokens.
        clips: the tokenised training clips, or the source of sequences that are tokens already.
        previews: write videos while a stage trains, if there is something to write.
    """

    def __init__(
        self,
        lab: Lab,
        store: StageStore,
        text: StageResult,
        tokens: StageResult,
        clips: TokenClips | TokenSource,
        previews: Previews | None,
    ) -> None:
        self.lab, self.store, self.text_stage, self.tokens, self.clips = lab, store, text, tokens, clips
        self.text = load_text(lab, text)
        self.previews = previews

    def image_base(self) -> StageResult:
        """Text to one frame: the model that the video stages build on and never change; trained, or from a file."""
        config = self.lab.config
        weights = config.stages.image_base.weights
        if weights is not None:
            return image_base_from_file(self.lab, self.store, self.text.vocabulary, Path(weights))
        depends = {"stage": config.stages.image_base, **self._common(self.lab.image_config(self.text.vocabulary))}

        def work(folder: Path) -> Info:
            torch.manual_seed(config.seed)
            network = self.lab.image_model(self.text.vocabulary)
            return self._train("image_base", folder, network, config.stages.image_base, [self.lab.key_frame_times])

        return self.store.finish("image_base", depends, work, together=True)

    def video(self, stage: Stage, base: StageResult, start: StageResult | None = None) -> StageResult:
        """The plus channel of one video stage on the frozen base.

        Args:
            stage: which.
            base: the image base.
            start: the finished stage whose plus channel this one starts from; None to start from the base.
        """
        config = self.lab.config
        sequential = stage == "sequential"
        attention = config.attention if sequential else config.stages.interpolation.attention or config.attention
        settings = config.stages.sequential if sequential else config.stages.interpolation
        windows = [self.lab.key_frame_times] if sequential else self.lab.window_times
        depends = {
            "base": base.key,
            "start": start.key if start else None,
            "attention": self.lab.identity("attention", attention),
            "stage": settings,
            "windows": windows,
            # What the sequential stage learns depends on it; said only where it is not the published way.
            **({} if config.generation.image_model_first or not sequential else {"first_frame": True}),
            **self._common(self.lab.video_config(self.text.vocabulary)),
        }

        def work(folder: Path) -> Info:
            torch.manual_seed(config.seed)
            network = self.lab.video_model(stage, self.text.vocabulary)
            network.start_plus_channel(load_model(self.lab.image_model(self.text.vocabulary), base))
            if start is not None:
                weights = load_file(start.folder / "model.safetensors")
                # Another attention may have another bias, or none: that part starts anew.
                same = network.state_dict().keys() if self.lab.interpolation_attention is self.lab.attention else ()
                kept = {name: w for name, w in weights.items() if name in same or ".bias." not in name}
                network.load_state_dict(kept, strict=False)
            return self._train(stage, folder, network, settings, windows)

        return self.store.finish(stage, depends, work, together=True)

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

    def _common(self, model: TransformerConfig) -> Info:
        config = self.lab.config
        return {
            "model": model,
            "text": self.text_stage.key,
            "tokens": self.tokens.key,
            "precision": config.trainer.precision,
            "seed": config.seed,
        }

    def _samples(self, name: str, windows: list[FrameTimes], caption_dropout: float) -> TokenSamples | RowSamples:
        lab, config, seed = self.lab, self.lab.config, self._seed(name)
        stills = config.stages.image_base.stills if name == "image_base" else None
        if isinstance(self.clips, TokenSource):
            return RowSamples(self.clips, self.text, seed, stills, caption_dropout)
        sequences = SequenceSampler(self.clips, lab.scheduler, windows, config.video.frames, seed)
        if stills is None:
            return TokenSamples(sequences, self.text, caption_dropout)
        anywhere = replace(sequences, windows=[*windows, *lab.window_times])
        return TokenSamples(FrameSampler(sequences, anywhere, stills), self.text, caption_dropout)

    def _seed(self, name: str) -> int:
        return self.lab.config.seed * 10 + ("image_base", "sequential", "interpolation").index(name)

    def _train(
        self,
        name: str,
        folder: Path,
        network: CogVideoTransformer,
        settings: StageConfig,
        windows: list[FrameTimes],
    ) -> Info:
        config = self.lab.config
        samples = self._samples(name, windows, settings.caption_dropout)
        first = config.generation.image_model_first
        module = TransformerModule(
            network, settings, self.text.begin_of_image, image_model_first=first, parts=config.trainer.accumulate
        )
        fit(
            module,
            samples,
            folder,
            config.trainer,
            title=name,
            seed=self._seed(name),
            names=lambda numbers: [samples.name(number) for number in numbers],
            callbacks=[self.previews.callback(name)] if self.previews else [],
        )
        if job.leads():
            write_tensors(folder / "model.safetensors", network.cpu().state_dict())
            (folder / LAST).unlink(missing_ok=True)
        return {
            "steps": settings.steps,
            "parameters": sum(p.numel() for p in network.parameters()),
            "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
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
    advice = "Use the run folder's own config.yaml, or train the stage again."
    shared = dict(like.named_parameters()) if like else None
    path = stage.folder / "model.safetensors"
    load_weights(network, path, "another model's weights", advice, device=device, dtype=dtype, shared=shared)
    return network.eval()
