"""Random numbers and the choice of tokens."""

from __future__ import annotations

import pytest
import torch

from cogvid.config.schema import SamplingConfig
from cogvid.generation.sampling import choose, guided, uniforms


def grid_of_uniforms(seed: int = 3, samples: int = 40, frames: int = 5, positions: int = 64) -> torch.Tensor:
    return uniforms(
        seed,
        torch.arange(samples)[:, None, None],
        torch.arange(frames)[:, None],
        torch.arange(positions),
    )


def test_uniforms_are_those_of_their_key_in_any_order_and_batch() -> None:
    whole = grid_of_uniforms()
    part = uniforms(3, torch.tensor([17, 2]), torch.tensor([4, 1]), torch.tensor([63, 0]))
    assert torch.equal(part, torch.stack([whole[17, 4, 63], whole[2, 1, 0]]))


def test_uniforms_are_spread_evenly_over_zero_to_one() -> None:
    values = grid_of_uniforms().flatten()
    assert values.dtype == torch.float64
    assert 0 <= values.min() < values.max() < 1
    counts = torch.histc(values, bins=16, min=0, max=1)
    expected = len(values) / 16
    # 15 degrees of freedom: 0.999 quantile of chi squared.
    assert ((counts - expected) ** 2 / expected).sum() < 37.7
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_uniforms_of_neighbouring_keys_are_uncorrelated(axis: int) -> None:
    values = grid_of_uniforms()
    size = values.shape[axis]
    pair = torch.stack([values.narrow(axis, start, size - 1).flatten() for start in (0, 1)])
    assert torch.corrcoef(pair)[0, 1].abs() < 4 / pair.shape[1] ** 0.5


def test_another_seed_gives_other_uniforms() -> None:
    assert not (grid_of_uniforms(3) == grid_of_uniforms(4)).any()
    assert torch.equal(grid_of_uniforms(-1), grid_of_uniforms(2**64 - 1))


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    uniform = (torch.arange(10_000).double() + 0.5) / 10_000
    tokens = choose(logits.expand(10_000, -1), uniform, SamplingConfig(temperature=0.7))
    shares = torch.bincount(tokens, minlength=4) / 10_000
    torch.testing.assert_close(shares, (logits / 0.7).softmax(-1), atol=2e-4, rtol=0)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose(logits, torch.tensor([0.99, 0.99]), SamplingConfig(temperature=0)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        (SamplingConfig(top_k=2), {1, 3}),
        (SamplingConfig(top_k=9), {0, 1, 2, 3}),
        (SamplingConfig(top_p=0.6), {3}),
        (SamplingConfig(top_p=0.8), {1, 3}),
        (SamplingConfig(top_p=0.0), {3}),
    ],
)
def test_only_the_likeliest_tokens_are_drawn(config: SamplingConfig, allowed: set[int]) -> None:
    # Shares: 0.09, 0.24, 0.03, 0.64.
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    uniform = (torch.arange(1000).double() + 0.5) / 1000
    assert set(choose(logits.expand(1000, -1), uniform, config).tolist()) == allowed


def test_the_extremes_of_the_uniform_never_draw_an_impossible_token() -> None:
    logits = torch.tensor([float("-inf"), 0.3, 0.1, float("-inf")])
    uniform = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    assert choose(logits.expand(2, -1), uniform, SamplingConfig()).tolist() == [1, 2]


def test_guidance_goes_on_from_unconditional_through_conditional() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert torch.equal(guided(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guided(conditional, unconditional, 3.0), torch.tensor([3.0, -2.0]))
