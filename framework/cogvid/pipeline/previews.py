"""Previews: videos of fixed prompts in TensorBoard, so that one sees a stage learn."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor

from cogvid.data.text import CaptionEncoder
from cogvid.generation.clips import ClipGenerator
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.generate import to_videos
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.pictures import enlarge, gif
from cogvid.training.modules import StageModule
from cogvid.training.steps import StepCallback, finished


class Previews:
    """Generates the fixed prompts with the models trained so far.

    Args:
        lab: the experiment's parts.
        tokenizer: the trained frame tokenizer.
        text: encodes the prompts.
        prompts: captions.
        seconds: durations of the sequences of each prompt, as `ClipGenerator.pieces` takes them.
        clusters: of the tokenizer's codes, int64 (codes,), if it has some.
        given: the key frames that each prompt's clip goes on from, int64 (prompts, generation.given, N), if any.
    """

    def __init__(
        self,
        lab: Lab,
        tokenizer: FrameTokenizer,
        text: CaptionEncoder,
        prompts: Sequence[str],
        seconds: Sequence[Sequence[float]],
        clusters: Tensor | None = None,
        given: Tensor | None = None,
    ) -> None:
        self.lab, self.tokenizer, self.text, self.clusters, self.given = lab, tokenizer, text, clusters, given
        self.prompts, self.seconds = list(prompts), list(seconds)
        self.models: dict[str, CogVideoTransformer] = {}

    def callback(self, stage: str) -> pl.Callback:
        """Writes videos while `stage` trains, and keeps its model for the stages after it."""
        return _SampleCallback(self, stage, self.lab.config.trainer.sample_every)

    def generator(self) -> ClipGenerator:
        """A generator with the models so far."""
        return ClipGenerator(
            self.models["image_base"],
            self.models.get("sequential"),
            self.models.get("interpolation"),
            self.text,
            self.lab.config.generation,
            self.lab.decoding,
            places=self.lab.places,
            plan=self.lab.plan,
            clusters=self.clusters,
        )

    def videos(self) -> Tensor:
        """Videos uint8 (prompts, F, 3, height, width), as far as the stages trained so far go."""
        numbers = torch.arange(len(self.prompts))
        codes = self.generator().clips(self.prompts, self.seconds, numbers, self.lab.config.seed, given=self.given)
        return to_videos(self.lab, self.tokenizer, codes)


class _SampleCallback(StepCallback):
    def __init__(self, samples: Previews, stage: str, every: int) -> None:
        self.samples, self.stage, self.every = samples, stage, every

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        wanted = finished(trainer) or (self.every and trainer.global_step % self.every == 0)
        if not trainer.is_global_zero or not wanted:
            return
        assert isinstance(module, StageModule)
        network = module.network
        assert isinstance(network, CogVideoTransformer)
        network.eval()
        self.samples.models[self.stage] = network
        writers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        with module.ema.applied():
            videos = self.samples.videos() if writers else ()
        for prompt, video in zip(self.samples.prompts, videos, strict=bool(writers)):
            for logger in writers:
                summary = Summary(value=[_gif_value(prompt, video)])
                logger.experiment._get_file_writer().add_summary(summary, trainer.global_step)
        network.train()


def _gif_value(name: str, video: Tensor) -> Summary.Value:
    """A video uint8 (F, 3, height, width) as an animated image; TensorBoard's own videos need another package."""
    height, width = enlarge(video).shape[2:]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif(video, 0.16))
    return Summary.Value(tag=f"samples/{name}", image=image)
