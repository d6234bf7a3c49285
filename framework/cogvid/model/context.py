"""Where keys and values come from: a whole sequence at once, or a cache that grows step by step.

The layers know neither; they ask a context for both channels' attention. See `transformer.py` for the shapes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from cogvid.attention.backend import AttentionBackend
from cogvid.attention.dense import masked_attention
from cogvid.attention.mask import Visibility
from cogvid.grid import Grid, Position


class AttentionContext(Protocol):
    """One pass through the layers: `text` text slots (all or none), then frame slots."""

    text: int

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Base channel: text sees text; a frame slot sees text and its own frame. (B, H, text + S, K)."""
        ...

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """Plus channel of the frame slots: text and all visible frame slots. (B, H, S, K)."""
        ...


def text_attention(q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor) -> Tensor:
    """Text sees unpadded text; padding sees itself, so that its states stay finite."""
    own = torch.eye(text_mask.shape[1], dtype=torch.bool, device=text_mask.device)
    return masked_attention(q, k, v, (text_mask[:, None, :] | own)[:, None])


def with_text(text_mask: Tensor, frames_visible: Tensor) -> Tensor:
    """Join masks over text keys (B, T) and frame keys (Q, S) to (B, 1, Q, T + S)."""
    queries = len(frames_visible)
    text = text_mask[:, None, None, :].expand(-1, 1, queries, -1)
    return torch.cat([text, frames_visible.expand(len(text_mask), 1, -1, -1)], dim=-1)


class FullSequence:
    """All slots of a sequence in one pass, for training and scoring."""

    def __init__(
        self, backend: AttentionBackend | None, grid: Grid, given: tuple[bool, ...], text_mask: Tensor
    ) -> None:
        """Args: backend of the plus channel; grid; given frames, (F,); text_mask, bool (B, T)."""
        self.backend, self.grid, self.given, self.text_mask = backend, grid, given, text_mask
        self.text = text_mask.shape[1]

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`; frames are batched, so the cost grows with their number alone."""
        t, f = self.text, self.grid.frames
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.text_mask)
        # (B, H, F * N, K) to (B * F, H, N, K), the text's keys in front of each frame's.
        q, k_own, v_own = (x[:, :, t:].unflatten(2, (f, -1)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        k_text, v_text = (x[:, :, :t].repeat_interleave(f, dim=0) for x in (k, v))
        n = self.grid.frame_tokens
        triangle = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
        own = triangle | torch.tensor(self.given, device=q.device)[:, None, None]
        visible = torch.cat(
            [
                self.text_mask.repeat_interleave(f, dim=0)[:, None, None, :].expand(-1, 1, n, -1),
                own.repeat(len(self.text_mask), 1, 1)[:, None],
            ],
            dim=-1,
        )
        k_all, v_all = torch.cat([k_text, k_own], dim=2), torch.cat([v_text, v_own], dim=2)
        frames = masked_attention(q, k_all, v_all, visible).unflatten(0, (-1, f)).transpose(1, 2).flatten(2, 3)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`; the dense computation of the backend's mask."""
        assert self.backend is not None
        mask = _dense_mask(self.backend, self.grid, self.given, layer, q.device)
        score_bias = None
        if bias is not None:
            position = self.grid.positions(q.device)
            query, key = (Position(*(axis.unsqueeze(d) for axis in position)) for d in (1, 0))
            # Text keys are not on the grid: their scores stay as they are.
            score_bias = nn.functional.pad(bias(query, key), (self.text, 0))[None]
        return masked_attention(q[:, :, self.text :], k, v, with_text(self.text_mask, mask), score_bias)


@lru_cache(maxsize=64)
def _dense_mask(
    backend: AttentionBackend, grid: Grid, given: tuple[bool, ...], layer: int, device: torch.device
) -> Tensor:
    """The mask does not change between steps; a pattern usually repeats after two layers at most."""
    return Visibility(backend, grid, given, layer).dense(device)


class Cache:
    """Keys and values of both channels of every layer, and of the text, for one batch of sequences.

    Args:
        layers, heads, head_size: of the model.
        text_mask: bool (B, T).
        slots: frame slots of the sequence, F * N.
        plus: whether there is a plus channel.
        dtype: of keys and values.
    """

    def __init__(
        self, layers: int, heads: int, head_size: int, text_mask: Tensor, slots: int, plus: bool, dtype: torch.dtype
    ) -> None:
        self.text_mask = text_mask
        shape = (layers, 2 if plus else 1, 2, len(text_mask), heads, text_mask.shape[1] + slots, head_size)
        self.values = torch.zeros(shape, dtype=dtype, device=text_mask.device)

    def write(self, layer: int, channel: int, places: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, S, K) at `places` (S,), and return the whole cache of the channel."""
        keys, values = self.values[layer, channel]
        keys[:, :, places], values[:, :, places] = k, v
        return keys, values


class StepPlan:
    """Which slots one step computes, and which keys they need in each layer; the same for every batch.

    Args:
        backend: of the plus channel, or None.
        grid: the frames of the sequence.
        given: which frames are given, (F,).
        slots: flat indices (S,) that this step computes.
        layers: of the model.
    """

    def __init__(
        self, backend: AttentionBackend | None, grid: Grid, given: tuple[bool, ...], slots: Tensor, layers: int
    ) -> None:
        self.grid, self.slots = grid, slots
        own = slots[:, None] // grid.frame_tokens == torch.arange(grid.tokens) // grid.frame_tokens
        raster = torch.arange(grid.tokens) <= slots[:, None]
        whole = torch.tensor(given)[slots // grid.frame_tokens]
        self.base = _visible_keys(own & (raster | whole[:, None]))
        self.plus = [
            _visible_keys(Visibility(backend, grid, given, layer).rows(slots)) for layer in range(layers) if backend
        ]


def _visible_keys(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mask rows (Q, tokens) to the keys that any query sees, (S,), and the mask on those, (Q, S)."""
    keys = rows.any(0).nonzero()[:, 0]
    return keys, rows[:, keys]


class CachedStep:
    """A few slots, attending to themselves and to what earlier steps left in the cache."""

    def __init__(self, cache: Cache, plan: StepPlan, *, text: bool) -> None:
        """Args: cache, written to; plan of the step; text: whether this pass computes the text, too."""
        self.cache, self.plan = cache, plan
        self.all_text = cache.text_mask.shape[1]
        self.text = self.all_text if text else 0
        places = plan.slots + self.all_text
        self.places = torch.cat([torch.arange(self.all_text), places]) if text else places

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`."""
        keys, values = self.cache.write(layer, 0, self.places, k, v)
        t = self.text
        frames = self._attend(q[:, :, t:], keys, values, *self.plan.base, None)
        if not t:
            return frames
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.cache.text_mask)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`."""
        keys, values = self.cache.write(layer, 1, self.places, k, v)
        return self._attend(q[:, :, self.text :], keys, values, *self.plan.plus[layer], bias)

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, chosen: Tensor, visible: Tensor, bias: nn.Module | None
    ) -> Tensor:
        places = torch.cat([torch.arange(self.all_text), chosen + self.all_text])
        score_bias = None
        if bias is not None:
            position = self.plan.grid.position
            query = Position(*(axis[:, None] for axis in position(self.plan.slots)))
            score_bias = nn.functional.pad(bias(query, position(chosen)), (self.all_text, 0))[None]
        mask = with_text(self.cache.text_mask, visible)
        return masked_attention(q, keys[:, :, places], values[:, :, places], mask, score_bias)
