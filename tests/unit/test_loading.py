"""Loading: each sample once an epoch, and the same batches for any ranks, workers and resumption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import chain, islice

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cogvid import UserError
from cogvid.data.clip_times import ClipTimes
from cogvid.data.loading import load, step_numbers
from cogvid.data.samples import FrameSampler, SequenceSampler, TokenSamples, shuffled
from cogvid.data.text import CaptionEncoder
from cogvid.data.tokens import TokenClips
from cogvid_plugins.frame_rate.uniform import Uniform
from cogvid_plugins.text_tokenizer.bpe import BytePairs

Batch = Sequence[Tensor]
MakeTokenClips = Callable[..., TokenClips]
# Clips, and samples of a step: neither divides the other, nor do two or three ranks divide a step.
CLIPS, SIZE = 11, 7
# The first epoch ends in the middle of the second step, the seventh with a step.
STEPS = 13


@pytest.fixture(scope="module")
def samples(make_token_clips: MakeTokenClips) -> TokenSamples:
    """Of clips of different lengths with two captions each; all codes of a frame are 100 * clip + its number."""
    counts = [9 + 4 * clip for clip in range(CLIPS)]
    numbers = torch.cat([torch.arange(count) for count in counts])
    codes = numbers + torch.repeat_interleave(100 * torch.arange(CLIPS), torch.tensor(counts))
    captions = [(f"clip {clip}", f"video {clip}") for clip in range(CLIPS)]
    times = [ClipTimes.of(range(count), Fraction(1, 8)) for count in counts]
    offsets = torch.tensor(np.cumsum([0, *counts]))
    clips = make_token_clips(codes[:, None, None].repeat(1, 2, 3), numbers, offsets, captions, times)
    scheduler = Uniform(Uniform.Config(rates=[2.0, 4.0]))
    sampler = SequenceSampler(clips, scheduler, [(0, 1, 2), (0, 0.5, 1)], 3, seed=7)
    tokenizer = BytePairs(BytePairs.Config(280))
    tokenizer.train((caption, 0.25) for own in captions for caption in own)
    return TokenSamples(sampler, CaptionEncoder(tokenizer, 30, 1 << 14), caption_dropout=0.3)


def loaded(
    samples: Dataset[object], count: int, step: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1
) -> list[Batch]:
    batches = load(samples, step_numbers(SIZE, step, rank, ranks), workers)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def assert_same(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def clips_of(batch: Batch) -> list[int]:
    """The clip of each sample of a batch."""
    return [int(code) // 100 for code in batch[0][:, 0, 0]]


@pytest.fixture(scope="module")
def whole(samples: TokenSamples) -> list[Batch]:
    """What one process without workers loads."""
    return loaded(samples, STEPS)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_reads_each_sample_exactly_once_an_epoch(
    samples: TokenSamples, whole: list[Batch], ranks: int, workers: int
) -> None:
    shares = [loaded(samples, STEPS, 0, workers, rank, ranks) for rank in range(ranks)]
    for step in range(STEPS):
        joined = []
        for tensors in zip(*(share[step] for share in shares), strict=True):
            together = torch.empty(SIZE, *tensors[0].shape[1:], dtype=tensors[0].dtype)
            for rank, tensor in enumerate(tensors):
                together[rank::ranks] = tensor
            joined.append(together)
        assert_same([joined], whole[step : step + 1])
    order = list(chain.from_iterable(map(clips_of, whole)))
    epochs = [order[start : start + CLIPS] for start in range(0, len(order) - CLIPS + 1, CLIPS)]
    assert len(epochs) == 8
    assert all(Counter(epoch) == Counter(range(CLIPS)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8


# In the middle of an epoch, at the end of one, in a later one.
@pytest.mark.parametrize("step", [1, CLIPS, CLIPS + 1])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loading_goes_on_from_any_step_with_any_number_of_workers(
    samples: TokenSamples, whole: list[Batch], step: int, workers: int
) -> None:
    assert_same(loaded(samples, STEPS - step, step, workers), whole[step:])


def test_the_image_bases_samples_are_the_same_with_workers(samples: TokenSamples) -> None:
    frames = TokenSamples(FrameSampler(samples.sampler, samples.sampler, 0.5), samples.text, 30)  # type: ignore[arg-type]
    assert_same(loaded(frames, 5, workers=2), loaded(frames, 5))


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 70_001])
def test_the_order_of_an_epoch_is_a_permutation_by_seed_and_epoch(count: int) -> None:
    for epoch in (0, 1, 5):
        some = range(epoch * count, epoch * count + min(count, 50))
        published = np.random.default_rng((3, epoch, 0)).permutation(count)[:50].tolist()
        assert [shuffled(number, count, 3) for number in some] == published
    if count > 5:
        assert [shuffled(number, count, 4) for number in some] != published


class Damaged(Dataset[Tensor]):
    def __getitem__(self, number: int) -> Tensor:
        if number == 2 * SIZE:
            raise UserError("shard 3 is damaged")
        return torch.tensor(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_read_says_so_when_it_is_wanted(workers: int) -> None:
    assert len(loaded(Damaged(), 2, workers=workers)) == 2
    with pytest.raises(UserError, match=r"^shard 3 is damaged$"):
        loaded(Damaged(), 3, workers=workers)
