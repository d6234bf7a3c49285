"""Training samples out of tokenised clips, each a function of its number: which clip, which rate, which frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cogvid.data.sequences import FrameTimes, starts
from cogvid.data.table import TimedClip
from cogvid.data.text import CaptionEncoder
from cogvid.data.tokens import TokenClips
from cogvid.interfaces.frame_rate import FrameRateScheduler


def shuffled(number: int, count: int, seed: int) -> int:
    """Which of so many clips the sample of a number is from: each once an epoch, in an order of the epoch's own.

    The first one of an epoch costs a permutation of all clips, which is kept with that of the epoch before.
    """
    epoch, place = divmod(number, count)
    return int(_order(seed, epoch, count)[place])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int32]:
    return np.random.default_rng((seed, epoch, 0)).permutation(np.arange(count, dtype=np.int32))


@dataclass(frozen=True)
class Drawn:
    """A training sequence that was drawn.

    Attributes:
        clip: its place among the clips.
        numbers: int64 (F,), of the frames in the clip.
        caption: one of the clip's.
        rate: of the key frames (1/s).
        window: when the frames stand, in intervals of the rate.
    """

    clip: int
    numbers: NDArray[np.int64]
    caption: str
    rate: float
    window: FrameTimes

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.window[-1] - self.window[0]) / self.rate


@dataclass(frozen=True)
class SequenceSampler:
    """Draws the n-th training sequence; the same n always gives the same one.

    Attributes:
        clips: to draw from, each once an epoch in an order of the epoch's own; `TokenClips` where codes are wanted.
        scheduler: which rates a clip is shown at; some for each of the clips.
        windows: which frames of a clip a sequence may have: the key frames, the interpolation's windows.
        frames: key frames of a clip.
        seed: of the stage.
    """

    clips: Sequence[TimedClip]
    scheduler: FrameRateScheduler
    windows: Sequence[FrameTimes]
    frames: int
    seed: int

    def choose(self, number: int) -> Drawn:
        """What the n-th sequence is, before any of it is read."""
        clip = shuffled(number, len(self.clips), self.seed)
        random = np.random.default_rng((self.seed, number, 1))
        timed = self.clips[clip]
        times = timed.times
        rates = self.scheduler.training_rates(times.reach, self.frames)
        rate = rates[int(random.integers(len(rates)))]
        window = self.windows[int(random.integers(len(self.windows)))]
        start = int(random.integers(starts(times, rate, self.frames)))
        (numbers,) = times.frames([start], window, rate)
        captions, place = timed.captions, 0
        if len(captions) > 1:
            place = int(np.random.default_rng((self.seed, number, 4)).integers(len(captions)))
        return Drawn(clip, numbers, captions[place], rate, window)

    def draw(self, number: int) -> tuple[Tensor, str, float]:
        """Codes int64 (F, height, width), the caption, and the sequence's length in seconds."""
        drawn = self.choose(number)
        assert isinstance(self.clips, TokenClips)
        return self.clips.frames(drawn.clip, drawn.numbers), drawn.caption, drawn.seconds


@dataclass(frozen=True)
class FrameSampler:
    """Draws the n-th training frame of the image base.

    The base is the frozen part of the video models, which write all frames of a clip with its layers and its
    embeddings, so it learns stills from anywhere in a clip, captioned as the clip is. It also gives clips their
    first frame: the whole of a clip of no duration.

    Attributes:
        first: draws sequences of key frames, which begin with first frames.
        anywhere: draws the sequences that stills are from.
        stills: share of the stills.
    """

    first: SequenceSampler
    anywhere: SequenceSampler
    stills: float

    @property
    def seed(self) -> int:
        """Of the stage."""
        return self.first.seed

    def draw(self, number: int) -> tuple[Tensor, str, float]:
        """Codes int64 (1, height, width), the caption, and seconds: 0 for a first frame."""
        random = np.random.default_rng((self.first.seed, number, 3))
        if random.random() < self.stills:
            codes, caption, seconds = self.anywhere.draw(number)
            place = random.integers(len(codes))
            return codes[place : place + 1], caption, seconds
        codes, caption, _ = self.first.draw(number)
        return codes[:1], caption, 0.0


@dataclass(frozen=True)
class TokenSamples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The samples that transformers learn from: sequences, or single frames, with their texts.

    Attributes:
        sampler: draws sequences, or single frames.
        text: encodes their captions.
        caption_dropout: share of the sequences whose caption is left out, for guidance.
    """

    sampler: SequenceSampler | FrameSampler
    text: CaptionEncoder
    caption_dropout: float = 0.0

    def name(self, number: int) -> str:
        """What tells people which sample it is: the caption."""
        return self.sampler.draw(number)[1]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes int64 (F, N), text tokens int64 (T,) as the model reads them, and text mask bool (T,)."""
        codes, caption, seconds = self.sampler.draw(number)
        dropped = np.random.default_rng((self.sampler.seed, number, 2)).random() < self.caption_dropout
        tokens, mask = self.text.encode([None if dropped else self.text.tokenizer.readable(caption)], [seconds])
        return codes.flatten(1), tokens[0], mask[0]
