"""Of `cogvid bench data`: sequences of tokens drawn and put together, beside what a training consumes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from cogvid.bench.measure import Times, time_rounds
from cogvid.data.clip_times import ClipTimes
from cogvid.data.sequences import SequenceSampler, TokenBatch, TokenClips
from cogvid.data.text import TextTokenizer
from cogvid.errors import UserError
from cogvid.pipeline.clips import drawn_frames
from cogvid.pipeline.lab import Lab
from cogvid.training.next_token import TransformerModule

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass
class LoadingResult:
    """Seconds of one batch of the sequential stage: made in one process, and learned from.

    Attributes:
        batch_size: sequences of a batch.
    """

    batch_size: int
    loading: Times
    step: Times

    @property
    def ratio(self) -> float:
        """Sequences that are loaded while one is consumed."""
        return self.step.median / self.loading.median


def run_loading(lab: Lab, clips: int, repeats: int) -> LoadingResult:
    """Check that a batch depends on its number alone, then time batches beside steps of the training.

    Args:
        lab: the experiment whose sequential stage it is, with an untrained model.
        clips: how many made-up ones to draw from.
        repeats: rounds.

    Raises:
        UserError: a batch drawn again, after others, is another one.
    """
    make, vocabulary = made_batches(lab, clips)
    settings = lab.config.stages.sequential
    numbers = [range(n * settings.batch_size, (n + 1) * settings.batch_size) for n in range(64)]
    first = make(numbers[0])
    make(numbers[1])
    if not all(torch.equal(one, other) for one, other in zip(first, make(numbers[0]), strict=True)):
        raise UserError("Not timed, because the check failed: a batch that is drawn again is another one.")
    learn = training_step(lab, vocabulary)
    learn(first)
    times = time_rounds(
        {"loading": lambda: [make(own) for own in numbers], "step": lambda: learn(first)},
        repeats,
        0.0,
        torch.device("cpu"),
    )
    loading = Times(times["loading"].median / len(numbers), times["loading"].min / len(numbers))
    return LoadingResult(settings.batch_size, loading, times["step"])


def made_batches(lab: Lab, clips: int) -> tuple[Callable[[range], Batch], int]:
    """What makes the batch of some numbers out of made-up clips of one to eight seconds, and the text's vocabulary."""
    random = np.random.default_rng(0)
    times = [ClipTimes.of(range(int(16 * seconds)), Fraction(1, 16)) for seconds in random.choice([1, 2, 4, 8], clips)]
    times = [each for each in times if lab.scheduler.training_rates(each.reach, lab.config.video.frames)]
    numbers = [np.unique(np.concatenate([own.ravel() for own in drawn_frames(lab, each)])) for each in times]
    offsets = torch.tensor([0, *np.cumsum([len(own) for own in numbers])])
    codes = torch.randint(lab.codes, (int(offsets[-1]), lab.grid.height, lab.grid.width), dtype=torch.int32)
    captions = [("a small red circle moves left",)] * len(times)
    tokens = TokenClips(codes, torch.from_numpy(np.concatenate(numbers)), offsets, captions, times)
    text = TextTokenizer.train(sorted({*captions[0]}), lab.config.text.vocabulary)
    frames, settings = lab.config.video.frames, lab.config.stages.sequential
    sampler = SequenceSampler(tokens, lab.scheduler, [lab.key_frame_times], frames, lab.config.seed)
    return TokenBatch(sampler, text, lab.config.text.length, settings.caption_dropout), text.vocabulary


def training_step(lab: Lab, vocabulary: int) -> Callable[[Batch], None]:
    """One optimiser step of the sequential stage, without what Lightning does around it."""
    torch.manual_seed(lab.config.seed)
    settings = lab.config.stages.sequential
    network = lab.video_model("sequential", vocabulary)
    network.start_plus_channel(lab.image_model(vocabulary))
    first = lab.config.generation.image_model_first
    module = TransformerModule(network, settings, lab.text_offset, image_model_first=first)
    module.report = lambda loss, **values: loss  # type: ignore[method-assign]  # there is no trainer to log to
    optimizer = module.configure_optimizers()["optimizer"]

    def learn(batch: Batch) -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

    return learn
