"""From logits to tokens, with random numbers that do not depend on the order of work."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.config.schema import SamplingConfig


def uniforms(seed: int, samples: Tensor, frames: Tensor, positions: Tensor, draw: int = 0) -> Tensor:
    """Uniform random numbers as a pure function of (seed, sample, frame, position, draw), on any device.

    A chain of SplitMix64 finalisers (Steele, Lea and Flood, 2014): each key is mixed into the hash of those
    before it.

    Args:
        seed: any integer; its lowest 64 bits count.
        samples, frames, positions: int64 tensors that broadcast with each other.
        draw: which of several independent numbers with these keys.

    Returns:
        float64 in [0, 1), of the broadcast shape.
    """
    state = torch.tensor(_signed(seed), device=samples.device)
    keys = [torch.zeros_like(state), samples, frames, positions]
    if draw:  # left out of the first, whose numbers saved runs are made of
        keys.append(torch.tensor(_signed(draw), device=samples.device))
    for key in keys:
        state = _mix((state ^ key) + _signed(0x9E3779B97F4A7C15))
    # 52 bits, so that the product with a sum of probabilities is always below that sum.
    return _shift_right(state, 12).double() * 2.0**-52


def choose(
    logits: Tensor,
    uniform: Tensor,
    config: SamplingConfig,
    clusters: Tensor | None = None,
    second: Tensor | None = None,
) -> Tensor:
    """Draw tokens by inverting the cumulative distribution in the order of the vocabulary.

    With `config.clusters` in the two levels of the released CogVideo: temperature, top-k and top-p draw a cluster,
    as likely as its tokens together, then the softmax at `config.code_temperature` (0: the likeliest) a token in it.

    Args:
        logits: (..., V).
        uniform: float64 (...) in [0, 1).
        config: temperature (0 takes the likeliest token of all), top-k and top-p (ties with the last one kept stay).
        clusters: int64 (V,) in [0, V), the cluster of each token; only read with `config.clusters`.
        second: float64 (...) in [0, 1), independent of `uniform`, for the token in its cluster; likewise.

    Returns:
        int64 (...).

    Raises:
        ValueError: `config.clusters` without `clusters` or `second`.
    """
    if config.clusters and (clusters is None or second is None):
        raise ValueError("sampling in two levels needs the clusters and a second random number")
    if not config.clusters or config.temperature == 0 or clusters is None or second is None:
        return _draw(logits, uniform, config.temperature, config.top_k, config.top_p)
    likely = (logits.double() / config.temperature).softmax(-1)
    # Room for as many clusters as tokens, so that a GPU need not be asked how many there are: empty ones get -inf.
    shares = torch.zeros_like(likely).index_add_(-1, clusters, likely)
    cluster = _draw(shares.log(), uniform, 1.0, config.top_k, config.top_p)
    inside = logits.masked_fill(clusters != cluster[..., None], float("-inf"))
    return _draw(inside, second, config.code_temperature)


def _draw(logits: Tensor, uniform: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Indices (...) from the filtered softmax of logits (..., V); at temperature 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    scores = logits.double() / temperature
    if 0 < top_k < scores.shape[-1]:
        last = scores.topk(top_k).values[..., -1:]
        scores = scores.masked_fill(scores < last, float("-inf"))
    probabilities = scores.softmax(-1)
    if top_p < 1:
        likeliest = probabilities.sort(descending=True).values
        kept = likeliest.cumsum(-1) - likeliest < top_p
        kept[..., 0] = True
        last = likeliest.masked_fill(~kept, 1.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < last, 0.0)
    cumulative = probabilities.cumsum(-1)
    return (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(-1)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of logits (arXiv 2207.12598): away from the unconditional ones, 1 for none."""
    return unconditional + scale * (conditional - unconditional)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """A logical shift; torch's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    """The int64 with these 64 bits."""
    return (x + 2**63) % 2**64 - 2**63
