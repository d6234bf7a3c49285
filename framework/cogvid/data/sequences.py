"""Training sequences out of tokenised clips: which clip, which rate, which frames, as a function of a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import IterableDataset

from cogvid.data.clip_times import ClipTimes
from cogvid.data.text import TextTokenizer, with_duration
from cogvid.interfaces.frame_rate import FrameRateScheduler, frames_at

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TokenClips:
    """Tokenised clips, one after the other, each with the frames that training may want.

    Attributes:
        codes: int32 (all frames, height, width).
        numbers: int64 (all frames,), the number of each frame in its clip, ascending inside the clip.
        offsets: int64 (clips + 1,), where each clip's frames begin.
        captions: of the clips, one or more each.
        times: of the clips' frames.
    """

    codes: Tensor
    numbers: Tensor
    offsets: Tensor
    captions: Sequence[tuple[str, ...]]
    times: Sequence[ClipTimes]

    def __len__(self) -> int:
        return len(self.captions)

    def frames(self, clip: int, numbers: NDArray[np.int64]) -> Tensor:
        """Codes of the frames with these numbers (F,), which the clip has; int64 (F, height, width)."""
        first, last = int(self.offsets[clip]), int(self.offsets[clip + 1])
        own = self._numbers[first:last]
        places = np.searchsorted(own, numbers)
        assert np.array_equal(own.take(places, mode="clip"), numbers), (clip, numbers)
        return self.codes[torch.from_numpy(places + first)].long()

    @cached_property
    def _numbers(self) -> NDArray[np.int64]:
        return self.numbers.numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What `load` reads; captions and times stay with the data."""
        return {"codes": self.codes, "numbers": self.numbers, "offsets": self.offsets}

    @classmethod
    def load(cls, path: Path, captions: Sequence[tuple[str, ...]], times: Sequence[ClipTimes]) -> TokenClips:
        """Read a safetensors file of `tensors()`."""
        return cls(**load_file(path), captions=captions, times=times)


# Times of a sequence's frames, in intervals between key frames: 0, 1, 2, ... for the key frames themselves.
FrameTimes = tuple[float, ...]


def sequences(times: ClipTimes, rate: float, window: FrameTimes, frames: int) -> NDArray[np.int64]:
    """The numbers of the frames of all sequences that training may draw from a clip with one window.

    Args:
        times: of the clip's frames.
        rate: of the key frames (1/s); one that fits the clip.
        window: which frames of a clip a sequence has.
        frames: key frames of a clip.

    Returns:
        int64 (starts, window).
    """
    return times.frames(range(_starts(times, rate, frames)), window, rate)


def _starts(times: ClipTimes, rate: float, frames: int) -> int:
    return frames_at(times.reach, rate) - frames + 1


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
        clips: to draw from, each once an epoch in an order of the epoch's own.
        scheduler: which rates a clip is shown at.
        windows: which frames of a clip a sequence may have: the key frames, the interpolation's windows.
        frames: key frames of a clip.
        seed: of the stage.
    """

    clips: TokenClips
    scheduler: FrameRateScheduler
    windows: Sequence[FrameTimes]
    frames: int
    seed: int

    def choose(self, number: int) -> Drawn:
        """What the n-th sequence is, before any of it is read."""
        epoch, place = divmod(number, len(self._usable))
        clip = self._usable[_order(self.seed, epoch, len(self._usable))[place]]
        random = np.random.default_rng((self.seed, number, 1))
        times = self.clips.times[clip]
        rates = self.scheduler.training_rates(times.reach, self.frames)
        rate = rates[int(random.integers(len(rates)))]
        window = self.windows[int(random.integers(len(self.windows)))]
        start = int(random.integers(_starts(times, rate, self.frames)))
        (numbers,) = times.frames([start], window, rate)
        captions = self.clips.captions[clip]
        caption = captions[int(np.random.default_rng((self.seed, number, 4)).integers(len(captions)))]
        return Drawn(clip, numbers, caption, rate, window)

    def draw(self, number: int) -> tuple[Tensor, str, float]:
        """Codes int64 (F, height, width), the caption, and the sequence's length in seconds."""
        drawn = self.choose(number)
        return self.clips.frames(drawn.clip, drawn.numbers), drawn.caption, drawn.seconds

    @cached_property
    def _usable(self) -> list[int]:
        rates = (self.scheduler.training_rates(times.reach, self.frames) for times in self.clips.times)
        return [clip for clip, fitting in enumerate(rates) if fitting]


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


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)


class Batches(IterableDataset[Batch]):
    """Endless batches, each a function of its step, so that an interrupted training goes on with the batches
    it would have had.

    Args:
        make: called with the numbers of a batch's samples; they count on from step to step.
        batch_size: samples of a step, over all processes.
    """

    def __init__(self, make: Callable[[Sequence[int]], Batch], batch_size: int) -> None:
        self.make, self.batch_size = make, batch_size
        self.start(step=0, rank=0, processes=1)

    def start(self, step: int, rank: int, processes: int) -> None:
        """Go on from `step`, with every `processes`-th sample from `rank` on."""
        self.step, self.rank, self.processes = step, rank, processes

    def __iter__(self) -> Iterator[Batch]:
        while True:
            first = self.step * self.batch_size
            self.step += 1
            yield self.make(range(first + self.rank, first + self.batch_size, self.processes))


@dataclass(frozen=True)
class TokenBatch:
    """Makes batches of token sequences.

    Attributes:
        sampler: draws sequences, or single frames.
        text: encodes their texts.
        text_length: T.
        caption_dropout: share of the sequences whose caption is left out, for guidance.
    """

    sampler: SequenceSampler | FrameSampler
    text: TextTokenizer
    text_length: int
    caption_dropout: float = 0.0

    def __call__(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (B, F, N), text tokens (B, T) and text mask (B, T)."""
        codes, texts = [], []
        for number in numbers:
            frames, caption, seconds = self.sampler.draw(number)
            dropped = np.random.default_rng((self.sampler.seed, number, 2)).random() < self.caption_dropout
            codes.append(frames.flatten(1))
            texts.append(with_duration("" if dropped else caption, seconds))
        return torch.stack(codes), *self.text.encode(texts, self.text_length)
