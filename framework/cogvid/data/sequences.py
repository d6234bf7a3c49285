"""Training sequences out of tokenised clips: which clip, which rate, which frames, as a function of a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import IterableDataset

from cogvid.data.text import TextTokenizer, with_duration
from cogvid.interfaces.frame_rate import FrameRateScheduler, frames_at

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TokenClips:
    """Tokenised clips, one after the other.

    Attributes:
        codes: int32 (all frames, height, width).
        times: float64 (all frames,), seconds from the start of each clip, ascending inside it.
        offsets: int64 (clips + 1,), where each clip's frames begin.
        captions: of the clips.
    """

    codes: Tensor
    times: Tensor
    offsets: Tensor
    captions: Sequence[str]

    def __len__(self) -> int:
        return len(self.captions)

    def duration(self, clip: int) -> float:
        """Seconds from the clip's first frame to its last."""
        return float(self.times[self.offsets[clip + 1] - 1])

    def frames(self, clip: int, times: np.ndarray) -> Tensor:
        """Codes of the frames nearest to `times` (F,), int64 (F, height, width)."""
        first, last = int(self.offsets[clip]), int(self.offsets[clip + 1])
        own = self._seconds[first:last]
        after = np.searchsorted(own, times).clip(1, max(last - first - 1, 1))
        nearest = (
            np.where(times - own[after - 1] <= own[after] - times, after - 1, after) if len(own) > 1 else after * 0
        )
        return self.codes[torch.from_numpy(nearest + first)].long()

    @cached_property
    def _seconds(self) -> np.ndarray:
        return self.times.numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What `load` reads; the captions stay with the data."""
        return {"codes": self.codes, "times": self.times, "offsets": self.offsets}

    @classmethod
    def load(cls, path: Path, captions: Sequence[str]) -> TokenClips:
        """Read a safetensors file of `tensors()`."""
        return cls(**load_file(path), captions=captions)


# Times of a sequence's frames, in intervals between key frames: 0, 1, 2, ... for the key frames themselves.
FrameTimes = tuple[float, ...]


def frame_times(duration: float, rates: Sequence[float], windows: Sequence[FrameTimes], frames: int) -> np.ndarray:
    """All times (seconds) at which training may want a frame of a clip, ascending.

    Args:
        duration: of the clip, in seconds.
        rates: key-frame rates that fit it.
        windows: the sequences that training draws.
        frames: key frames of a sequence.
    """
    offsets = np.unique(np.concatenate([np.asarray(window) for window in windows]))
    starts = [np.arange(frames_at(duration, rate) - frames + 1)[:, None] for rate in rates]
    times = [((start + offsets) / rate).ravel() for start, rate in zip(starts, rates, strict=True)]
    return np.unique(np.concatenate(times).round(6))


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

    def draw(self, number: int) -> tuple[Tensor, str, float]:
        """Codes int64 (F, height, width), the caption, and the sequence's length in seconds."""
        epoch, place = divmod(number, len(self._usable))
        clip = self._usable[_order(self.seed, epoch, len(self._usable))[place]]
        random = np.random.default_rng((self.seed, number, 1))
        duration = self.clips.duration(clip)
        rates = self.scheduler.training_rates(duration, self.frames)
        rate = rates[int(random.integers(len(rates)))]
        window = self.windows[int(random.integers(len(self.windows)))]
        start = random.integers(frames_at(duration, rate) - self.frames + 1)
        codes = self.clips.frames(clip, (start + np.asarray(window)) / rate)
        return codes, self.clips.captions[clip], (window[-1] - window[0]) / rate

    @cached_property
    def _usable(self) -> list[int]:
        durations = ((clip, self.clips.duration(clip)) for clip in range(len(self.clips)))
        return [clip for clip, seconds in durations if self.scheduler.training_rates(seconds, self.frames)]


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
