"""Random samples of an experiment's data as its models see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import log10
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import VideoFile
from cogvid.data.sequences import Drawn, FrameTimes, SequenceSampler
from cogvid.data.table import ClipTable, TimedClip
from cogvid.data.text import TextTokenizer, with_duration
from cogvid.errors import UserError
from cogvid.interfaces.data_source import DataSource
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.mask import Stage
from cogvid.pipeline.check import check_folder
from cogvid.pipeline.clips import decode_clips, usable_clips
from cogvid.pipeline.data_stage import data_stage
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import STAGES
from cogvid.pipeline.stage import FinishedStages, StageResult, StageStore, Unfinished
from cogvid.pipeline.text_stage import text_stage
from cogvid.pipeline.tokenizer_stage import decode, encode, load_tokenizer, tokenizer_stage


@dataclass(frozen=True)
class Sample:
    """A training sequence, and what it was made of.

    Attributes:
        stage: whose training shows it.
        clip: where it is from.
        drawn: rate, frames and caption.
        kept: the part of the caption that the text slots have room for.
        tokens: of that part, with the duration.
        frames: uint8 (F, 3, height, width).
        reconstruction: the same from the codes of the frame tokenizer; None before that is trained.
    """

    stage: Stage
    clip: TimedClip
    drawn: Drawn
    kept: str
    tokens: int
    frames: Tensor
    reconstruction: Tensor | None

    @property
    def text(self) -> str:
        """What it is conditioned on."""
        return with_duration(self.kept, self.drawn.seconds)

    @property
    def cut(self) -> str:
        """The part of the caption that there is no room for."""
        return self.drawn.caption.removeprefix(self.kept)

    @property
    def file(self) -> str:
        """The video, and where it lies."""
        return str(VideoFile.of(self.clip.clip))

    @property
    def numbers(self) -> list[int]:
        """Of the frames, in the file."""
        return (self.drawn.numbers + self.clip.first).tolist()

    @property
    def times(self) -> list[float]:
        """Of the frames, in seconds since the clip's first."""
        return self.clip.times.seconds[self.drawn.numbers].tolist()

    @property
    def psnr(self) -> float | None:
        """Of the reconstruction, in dB."""
        if self.reconstruction is None:
            return None
        error = (self.reconstruction.float() - self.frames.float()).square().mean()
        return 10 * log10(255**2 / max(float(error), 1e-12))


@dataclass(frozen=True)
class Samples:
    """Some samples of an experiment.

    Attributes:
        lab: the experiment's parts.
        clips: how many clips there are to draw from.
        samples: drawn.
        tokenized: whether the frame tokenizer is trained, so that the samples have reconstructions.
    """

    lab: Lab
    clips: int
    samples: Sequence[Sample]
    tokenized: bool


def draw_samples(lab: Lab, store: StageStore, count: int, seed: int) -> Samples:
    """Draw training sequences as the samplers of a training do, key frames and windows of the interpolation in turns.

    Data and text tokenizer are made if they are not there; the frame tokenizer is not.

    Args:
        lab: the experiment's parts.
        store: of the stages.
        count: how many.
        seed: another one gives others.

    Raises:
        UserError: there is nothing to train on, or what a stage left is damaged.
    """
    if not isinstance(lab.data, DataSource):
        raise UserError(f"data: {lab.config.data.name} gives tokens, and has no videos to show.")
    data = data_stage(lab, store)
    text = TextTokenizer.load(text_stage(lab, store, data).folder / "text.json")
    tokenizer = _trained_tokenizer(lab, store, data)
    clips = usable_clips(lab, data.folder, "train")
    stages, drawn = zip(*_draw(lab, clips, count, seed), strict=True)
    timed = [clips[each.clip] for each in drawn]
    decoded = decode_clips(timed, [each.numbers for each in drawn], lab.config.video.size, "show: frames")
    samples = []
    for stage, clip, each, frames in zip(stages, timed, drawn, decoded, strict=True):
        kept = each.caption  # what is too long has ended the text tokenizer's stage
        tokens = int(text.encode([with_duration(kept, each.seconds)], lab.config.text.length)[1].sum())
        again = decode(tokenizer, encode(tokenizer, frames)) if tokenizer else None
        samples.append(Sample(stage, clip, each, kept, tokens, frames, again))
    return Samples(lab, len(clips), samples, tokenizer is not None)


@dataclass(frozen=True)
class _Clips:
    """All that is asked of clips to choose from them."""

    captions: Sequence[tuple[str, ...]]
    times: Sequence[ClipTimes]

    def __len__(self) -> int:
        return len(self.times)


def _draw(lab: Lab, clips: ClipTable, count: int, seed: int) -> list[tuple[Stage, Drawn]]:
    captions, times = zip(*((clip.captions, clip.times) for clip in clips), strict=True)
    untokenised = cast(Any, _Clips(captions, times))
    windows: dict[Stage, list[FrameTimes]] = {"sequential": [lab.key_frame_times]}
    if lab.window_times:
        windows["interpolation"] = lab.window_times
    frames = lab.config.video.frames
    samplers = {stage: SequenceSampler(untokenised, lab.scheduler, windows[stage], frames, seed) for stage in windows}
    turns = zip(range(count), cycle(samplers.items()), strict=False)
    return [(stage, sampler.choose(number)) for number, (stage, sampler) in turns]


def _trained_tokenizer(lab: Lab, store: StageStore, data: StageResult) -> FrameTokenizer | None:
    try:
        return load_tokenizer(lab, tokenizer_stage(lab, FinishedStages(store.root, store.wait), data))
    except Unfinished:
        return None


def store_of(runs: Path, wait: bool) -> StageStore:
    """The stages of all runs below a folder."""
    check_folder(runs / STAGES)
    return StageStore(runs / STAGES, wait)
