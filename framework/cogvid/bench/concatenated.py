"""The plain way to keep keys and values, for comparison: a cache that grows by concatenation with every token.

So does the sampling loop of the 2022 release, with full attention; see `cogvid.generation.cache` for ours.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cogvid.grid import Grid
from cogvid.model.transformer import CogVideoTransformer

_STEPS = 12


class ConcatenatedCache:
    """One slot that sees all before it: in the base channel of its frame, in the plus channel of all frames.

    Args:
        model: whose layers they are.
        slots: that are in the cache already; of arbitrary values.
        grid: of the sequence.
    """

    text = 0

    def __init__(self, model: CogVideoTransformer, slots: int, grid: Grid) -> None:
        config, weight = model.config, model.word_embeddings.weight
        shape = (1, config.heads, config.text_length + slots, config.width // config.heads)
        self.cached = [
            [[torch.randn(shape, dtype=weight.dtype, device=weight.device) for _ in range(2)] for _ in range(2)]
            for _ in range(config.layers)
        ]
        self.own, self.text_length = slots % grid.frame_tokens, config.text_length

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        k, v = (
            torch.cat([x[:, :, : self.text_length], x[:, :, -self.own - 1 :]], dim=2)
            for x in self._grown(layer, 0, k, v)
        )
        return scaled_dot_product_attention(q, k, v)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        k, v = self._grown(layer, 1, k, v)
        return scaled_dot_product_attention(q, k, v)

    def _grown(self, layer: int, channel: int, k: Tensor, v: Tensor) -> list[Tensor]:
        old = self.cached[layer][channel]
        self.cached[layer][channel] = [torch.cat([x, new], dim=2) for x, new in zip(old, (k, v), strict=True)]
        return self.cached[layer][channel]


@torch.inference_mode()
def concatenated_seconds(model: CogVideoTransformer, grid: Grid, frame: int) -> float:
    """Median seconds of a token in the middle of a frame."""
    slot = frame * grid.frame_tokens + grid.frame_tokens // 2
    cache = ConcatenatedCache(model, slot, grid)
    device = model.word_embeddings.weight.device
    text_mask = torch.ones(1, model.config.text_length, device=device)
    tokens, times = torch.zeros(1, 1, dtype=torch.long, device=device), []
    for step in range(_STEPS):
        start = time.perf_counter()
        hidden = model.run(tokens, torch.tensor([slot + step], device=device), text_mask, cache)
        tokens = model.project(hidden).softmax(-1)[:, 0].multinomial(1)
        tokens.item()  # waits for a GPU
        cache.own += 1
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
