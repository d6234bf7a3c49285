"""The plain way to keep keys and values, for comparison: a cache that grows by concatenation with every token.

So does the sampling loop of the 2022 release, with full attention; see `cogvid.generation.cache` for ours.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cogvid.model.transformer import CogVideoTransformer, frame_inputs

_STEPS = 12


class ConcatenatedCache:
    """One slot at a time, which sees all before it: in the base channel of its frame, in the plus channel of all.

    Args:
        model: whose layers they are.
        text: int64 (B, T), as the model reads it; without padding.

    Attributes:
        kept: keys and values (B, H, T + slots, K), by layer and channel.
        slots: that are in it, behind the text.
        text: text slots of the pass that is going on.
    """

    def __init__(self, model: CogVideoTransformer, text: Tensor) -> None:
        config, weight = model.config, model.word_embeddings.weight
        empty = weight.new_empty(len(text), config.heads, 0, config.width // config.heads)
        self.kept = [[[empty, empty], [empty, empty]] for _ in range(config.layers)]
        self.model, self.text_mask = model, torch.ones_like(text)
        self.slots, self.text = 0, text.shape[1]
        model.run(text, torch.arange(0, device=text.device), self.text_mask, self)
        self.text = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Logits of the next slot, (B, V), which reads tokens (B, 1)."""
        hidden = self.model.run(tokens, torch.tensor([self.slots], device=tokens.device), self.text_mask, self)
        self.slots += 1
        return self.model.project(hidden)[:, 0]

    def skip(self, slots: int) -> None:
        """Leave arbitrary keys and values in place of the next slots: their time is the same."""
        for channel in (channel for layer in self.kept for channel in layer):
            new = torch.randn_like(channel[0][:, :, :1].expand(-1, -1, slots, -1))
            channel[:] = [torch.cat([x, new], dim=2) for x in channel]
        self.slots += slots

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        k, v = self._grown(layer, 0, k, v)
        if not self.text:
            text, own = self.text_mask.shape[1], self.slots % self.model.config.grid.frame_tokens + 1
            k, v = (torch.cat([x[:, :, :text], x[:, :, -own:]], dim=2) for x in (k, v))
        return scaled_dot_product_attention(q, k, v)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.model.context.AttentionContext`."""
        k, v = self._grown(layer, 1, k, v)
        return q[:, :, self.text :] if self.text else scaled_dot_product_attention(q, k, v)

    def _grown(self, layer: int, channel: int, k: Tensor, v: Tensor) -> list[Tensor]:
        old = self.kept[layer][channel]
        self.kept[layer][channel] = [torch.cat([x, new], dim=2) for x, new in zip(old, (k, v), strict=True)]
        return self.kept[layer][channel]


@torch.inference_mode()
def concatenated_error(model: CogVideoTransformer, codes: Tensor) -> float:
    """The largest difference of its logits of clips (B, F, N), slot by slot, from those of the whole sequence."""
    config = model.config
    text = torch.arange(config.text_length, device=codes.device).expand(len(codes), -1) + config.image_vocabulary + 1
    inputs = frame_inputs(codes, config.image_vocabulary)
    cache = ConcatenatedCache(model, text)
    grown = torch.stack([cache.step(tokens) for tokens in inputs.split(1, dim=1)], dim=1)
    return float((grown - model.image_logits(torch.cat([text, inputs], dim=1), cache.text_mask)).abs().max())


@torch.inference_mode()
def concatenated_seconds(model: CogVideoTransformer, batch: int, frame: int) -> float:
    """Median seconds of a token in the middle of a frame."""
    config, n = model.config, model.config.grid.frame_tokens
    device = model.word_embeddings.weight.device
    cache = ConcatenatedCache(model, torch.zeros(batch, config.text_length, dtype=torch.long, device=device))
    cache.skip(frame * n + n // 2)
    tokens, times = torch.zeros(batch, 1, dtype=torch.long, device=device), []
    for _ in range(min(_STEPS, n - n // 2)):
        start = time.perf_counter()
        tokens = cache.step(tokens).softmax(-1).multinomial(1)
        tokens.tolist()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
