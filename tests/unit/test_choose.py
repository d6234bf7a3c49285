"""Random numbers and the choice of tokens."""

from __future__ import annotations

import pytest
import torch

from cogvid.config.schema import SamplingConfig
from cogvid.generation.choose import choose, guided, uniforms

# Three clusters of codes whose shares at temperature 1 are 0.24 + 0.24, 0.29 and 0.11 + 0.12: the likeliest code is not
# in the likeliest cluster.
LOGITS = torch.tensor([0.1, 0.3, -0.7, 0.1, -0.6]).double()
CLUSTERS = torch.tensor([2, 0, 1, 2, 1])


def grid_of_uniforms(
    seed: int = 3, samples: int = 40, frames: int = 5, positions: int = 64, draw: int = 0
) -> torch.Tensor:
    return uniforms(
        seed,
        torch.arange(samples)[:, None, None],
        torch.arange(frames)[:, None],
        torch.arange(positions),
        draw,
    )


def midpoints(count: int) -> torch.Tensor:
    return (torch.arange(count).double() + 0.5) / count


def two_level_shares(config: SamplingConfig) -> torch.Tensor:
    """How often each code of `LOGITS` comes, over an even grid of both random numbers."""
    uniform, second = torch.meshgrid(midpoints(400), midpoints(400), indexing="ij")
    tokens = choose(LOGITS.expand(400, 400, -1), uniform, config, CLUSTERS, second)
    return torch.bincount(tokens.flatten(), minlength=len(LOGITS)) / tokens.numel()


def many_choices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (8, 25, 40) and two uniform numbers for each."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 8, 25, dtype=torch.float64, generator=generator)
    return 2 * torch.randn(8, 25, 40, generator=generator), first, second


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


def test_the_first_draw_has_the_numbers_it_had_before_there_was_a_second() -> None:
    keys = torch.tensor([[0, 17, 2], [0, 4, 1], [0, 63, 5]])
    assert uniforms(3, *keys).tolist() == [0.8367955706748802, 0.31583723215596704, 0.6222555073464735]


def test_the_second_draw_is_independent_of_the_first() -> None:
    pair = torch.stack([grid_of_uniforms(draw=0).flatten(), grid_of_uniforms(draw=1).flatten()])
    assert torch.corrcoef(pair)[0, 1].abs() < 4 / pair.shape[1] ** 0.5
    # Sixteen by sixteen boxes of the unit square: 255 degrees of freedom, 0.999 quantile of chi squared.
    first, second = (16 * pair).long()
    counts = torch.bincount(16 * first + second, minlength=256)
    expected = pair.shape[1] / 256
    assert ((counts - expected) ** 2 / expected).sum() < 330.5


def test_the_second_draw_of_a_seed_is_no_draw_of_its_neighbours() -> None:
    second = grid_of_uniforms(3, draw=1)
    for seed in range(8):
        for draw in range(3):
            assert (seed, draw) == (3, 1) or not torch.isin(second, grid_of_uniforms(seed, draw=draw)).any()


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    tokens = choose(logits.expand(10_000, -1), midpoints(10_000), SamplingConfig(temperature=0.7))
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
    assert set(choose(logits.expand(1000, -1), midpoints(1000), config).tolist()) == allowed


def test_the_extremes_of_the_uniform_never_draw_an_impossible_token() -> None:
    logits = torch.tensor([float("-inf"), 0.3, 0.1, float("-inf")])
    uniform = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    assert choose(logits.expand(2, -1), uniform, SamplingConfig()).tolist() == [1, 2]


def test_in_two_levels_a_cluster_comes_at_one_temperature_and_a_code_in_it_at_another() -> None:
    shares = two_level_shares(SamplingConfig(temperature=1.3, clusters=True, code_temperature=0.4))
    outer, inner = (LOGITS / 1.3).softmax(-1), (LOGITS / 0.4).exp()
    together = CLUSTERS[:, None] == CLUSTERS
    expected = (together * outer).sum(-1) * inner / (together * inner).sum(-1)
    torch.testing.assert_close(shares.double(), expected, atol=3e-3, rtol=0)


@pytest.mark.parametrize(
    ("config", "allowed"),
    [
        (SamplingConfig(clusters=True, top_k=1), {0, 3}),
        (SamplingConfig(clusters=True, top_k=2), {0, 1, 3}),
        (SamplingConfig(clusters=True, top_k=3), {0, 1, 2, 3, 4}),
        (SamplingConfig(clusters=True, top_k=4), {0, 1, 2, 3, 4}),
        (SamplingConfig(clusters=True, top_p=0.45), {0, 3}),
        (SamplingConfig(clusters=True, top_p=0.6), {0, 1, 3}),
    ],
)
def test_in_two_levels_only_codes_of_the_likeliest_clusters_are_drawn(
    config: SamplingConfig, allowed: set[int]
) -> None:
    assert set(two_level_shares(config).nonzero().flatten().tolist()) == allowed


def test_one_cluster_a_code_is_sampling_at_the_clusters_temperature() -> None:
    logits, first, second = many_choices()
    options = {"temperature": 1.2, "top_k": 20, "top_p": 0.9}
    chosen = choose(logits, first, SamplingConfig(**options, clusters=True), torch.arange(40), second)
    assert torch.equal(chosen, choose(logits, first, SamplingConfig(**options)))


def test_one_cluster_of_all_codes_is_sampling_at_the_codes_temperature() -> None:
    logits, first, second = many_choices()
    config = SamplingConfig(temperature=1.2, top_k=1, top_p=0.1, clusters=True, code_temperature=0.5)
    chosen = choose(logits, first, config, torch.zeros(40, dtype=torch.long), second)
    assert torch.equal(chosen, choose(logits, second, SamplingConfig(temperature=0.5)))


def test_clusters_change_nothing_where_they_are_not_asked_for() -> None:
    logits, first, second = many_choices()
    chosen = choose(logits, first, SamplingConfig(), torch.zeros(40, dtype=torch.long), second)
    assert torch.equal(chosen, choose(logits, first, SamplingConfig()))


def test_temperature_zero_takes_the_likeliest_code_whatever_its_cluster() -> None:
    config = SamplingConfig(temperature=0, clusters=True)
    assert choose(LOGITS, torch.tensor(0.9), config, 2 - CLUSTERS, torch.tensor(0.9)) == 1


def test_code_temperature_zero_takes_the_likeliest_code_of_the_cluster_drawn() -> None:
    shares = two_level_shares(SamplingConfig(clusters=True, code_temperature=0))
    assert shares.nonzero().flatten().tolist() == [0, 1, 4]


def test_the_extremes_of_both_numbers_never_draw_an_impossible_code() -> None:
    never = float("-inf")
    logits = torch.tensor([never, never, 0.3, 0.1, never, never])
    clusters = torch.tensor([0, 1, 1, 2, 2, 3])
    extremes = torch.tensor([0.0, 1 - 2.0**-52], dtype=torch.float64)
    chosen = choose(
        logits.expand(2, 2, -1),
        extremes[:, None].expand(2, 2),
        SamplingConfig(clusters=True),
        clusters,
        extremes.expand(2, 2),
    )
    assert chosen.tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize("missing", ["clusters", "second"])
def test_two_levels_without_clusters_or_a_second_number_are_refused(missing: str) -> None:
    given = {"clusters": CLUSTERS, "second": torch.tensor(0.5)}
    with pytest.raises(ValueError, match="second"):
        choose(LOGITS, torch.tensor(0.5), SamplingConfig(clusters=True), **{**given, missing: None})


def test_guidance_goes_on_from_unconditional_through_conditional() -> None:
    conditional, unconditional = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert torch.equal(guided(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guided(conditional, unconditional, 3.0), torch.tensor([3.0, -2.0]))
