"""Of `cogvid bench data`: sequences of tokens drawn and put together, beside what a training consumes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from cogvid.bench.measure import Times, time_rounds
from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video
from cogvid.data.loading import load
from cogvid.data.samples import SequenceSampler, TokenSamples
from cogvid.data.table import CLIPS, found_row, listed_row, write_table
from cogvid.data.text import CaptionEncoder
from cogvid.data.tokens import TABLE, TOKENS, Shard, TokenClips, shard_path, write_shard
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip
from cogvid.pipeline.clips import drawn_frames
from cogvid.pipeline.lab import Lab
from cogvid.training.next_token import TransformerModule

Batch = tuple[Tensor, Tensor, Tensor]
_CAPTION = "a small red circle moves left"


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
    with TemporaryDirectory() as folder:
        make, text = made_batches(lab, clips, Path(folder))
        return _run(lab, make, text, repeats)


def _run(lab: Lab, make: Callable[[range], Batch], text: CaptionEncoder, repeats: int) -> LoadingResult:
    settings = lab.config.stages.sequential
    numbers = [range(n * settings.batch_size, (n + 1) * settings.batch_size) for n in range(64)]
    first = make(numbers[0])
    make(numbers[1])
    if not all(torch.equal(one, other) for one, other in zip(first, make(numbers[0]), strict=True)):
        raise UserError("Not timed, because the check failed: a batch that is drawn again is another one.")
    learn = training_step(lab, text)
    learn(first)
    times = time_rounds(
        {"loading": lambda: [make(own) for own in numbers], "step": lambda: learn(first)},
        repeats,
        0.0,
        torch.device("cpu"),
    )
    loading = Times(times["loading"].median / len(numbers), times["loading"].min / len(numbers))
    return LoadingResult(settings.batch_size, loading, times["step"])


def made_batches(lab: Lab, clips: int, folder: Path) -> tuple[Callable[[range], Batch], CaptionEncoder]:
    """What makes the batch of some numbers out of made-up clips of one to eight seconds, whose tokens lie in a shard in
    a folder, and what encodes their captions."""
    tokens, text = made_tokens(lab, clips, folder), made_text(lab)
    settings, frames = lab.config.stages.sequential, lab.config.video.frames
    sampler = SequenceSampler(tokens, lab.scheduler, [lab.key_frame_times], frames, lab.config.seed)
    samples = TokenSamples(sampler, text, settings.caption_dropout)
    return (lambda numbers: next(load(samples, [numbers], 0))), text


def made_text(lab: Lab) -> CaptionEncoder:
    """What encodes the captions of made-up clips."""
    tokenizer = lab.build_text_tokenizer()
    tokenizer.train([(_CAPTION, 1.0)])
    return CaptionEncoder(tokenizer, lab.config.text.length, lab.codes)


def made_tokens(lab: Lab, clips: int, folder: Path) -> TokenClips:
    """Made-up clips of one to eight seconds, whose tokens lie in a shard in a folder."""
    random = np.random.default_rng(0)
    times = [ClipTimes.of(range(int(16 * seconds)), Fraction(1, 16)) for seconds in random.choice([1, 2, 4, 8], clips)]
    times = [each for each in times if lab.scheduler.training_rates(each.reach, lab.config.video.frames)]
    listed = [Clip(str(n), folder / f"{n}.mp4", _CAPTION, "train") for n in range(len(times))]
    videos = [Video(each, 32, 32, "h264") for each in times]
    rows = [listed_row(clip, folder) | found_row(clip, video) for clip, video in zip(listed, videos, strict=True)]
    write_table(folder / "clips.arrow", CLIPS, rows)
    numbers = [np.unique(np.concatenate([own.ravel() for own in drawn_frames(lab, each)])) for each in times]
    first = np.cumsum([0, *map(len, numbers)]).tolist()
    shard = Shard.empty(first[-1], len(times), lab.grid.height, lab.grid.width, lab.codes)
    shard.codes[:] = random.integers(lab.codes, size=shard.codes.shape)
    shard.numbers[:] = np.concatenate(numbers)
    write_shard(shard_path(folder, 0), shard, "")
    places = [
        {"id": str(n), "row": n, "key": bytes(32), "shard": 0, "first": first[n], "count": len(own), "error": 0}
        for n, own in enumerate(numbers)
    ]
    write_table(folder / TABLE, TOKENS, [place | {"rates": []} for place in places])
    return TokenClips(folder, folder / "clips.arrow")


def training_step(lab: Lab, text: CaptionEncoder) -> Callable[[Batch], None]:
    """One optimiser step of the sequential stage, without what Lightning does around it."""
    torch.manual_seed(lab.config.seed)
    settings = lab.config.stages.sequential
    network = lab.video_model("sequential", text.vocabulary)
    network.start_video(lab.image_model(text.vocabulary).state_dict())
    first = lab.config.generation.image_model_first
    module = TransformerModule(network, settings, text.begin_of_image, image_model_first=first)
    module.report = lambda loss, **values: loss  # type: ignore[method-assign]  # there is no trainer to log to
    optimizer = module.configure_optimizers()["optimizer"]

    def learn(batch: Batch) -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

    return learn
