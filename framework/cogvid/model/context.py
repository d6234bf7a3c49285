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
        self,
        layers: int,
        heads: int,
        head_size: int,
        text_mask: Tensor,
        slots: int,
        plus: bool,
        dtype: torch.dtype,
    ) -> None:
        self.text_mask = text_mask
        batch, text = text_mask.shape
        shape = (layers, 2 if plus else 1, 2, batch, heads, text + slots, head_size)
        self.values = torch.zeros(shape, dtype=dtype, device=text_mask.device)
        # Added to scores: what text and any number of visible frame keys look like.
        self.padding = torch.zeros(batch, 1, 1, text + slots, dtype=dtype, device=text_mask.device)
        self.padding[..., :text].masked_fill_(~text_mask[:, None, None, :], float("-inf"))

    def write(self, layer: int, channel: int, places: slice | Tensor, k: Tensor, v: Tensor) -> None:
        """Keep keys and values (B, H, S, K) at `places` (S,)."""
        keys, values = self.values[layer, channel]
        keys[:, :, places], values[:, :, places] = k, v

    def read(self, layer: int, channel: int, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, K) at `places` (S,); a slice is not copied."""
        both = self.values[layer, channel]
        chosen = both[:, :, :, places] if isinstance(places, slice) else both.index_select(3, places)
        return chosen[0], chosen[1]


class VisibleKeys:
    """The keys that some queries see, the text in front.

    Args:
        rows: mask rows, bool (Q, tokens).
        text: T, text slots.
        grid: the frames of the sequence.
    """

    def __init__(self, rows: Tensor, text: int, grid: Grid) -> None:
        slots = rows.any(0).nonzero()[:, 0]
        visible = rows[:, slots]
        self.positions = grid.position(slots)
        self.places = _as_slice(torch.cat([torch.arange(text, device=slots.device), slots + text]))
        self.count = text + len(slots)
        self.hidden = None
        if not visible.all():
            hidden = torch.zeros(len(rows), self.count, device=slots.device)
            self.hidden = hidden.masked_fill_(nn.functional.pad(~visible, (text, 0)), float("-inf"))


def _as_slice(places: Tensor) -> slice | Tensor:
    """Sorted places that follow each other as a slice: then nothing has to be gathered."""
    first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
    return slice(first, last + 1) if last - first + 1 == len(places) else places


class StepPlan:
    """Which slots one step computes, and which keys they need in each layer; the same for every batch.

    Args:
        backend: of the plus channel, or None.
        grid: the frames of the sequence.
        given: which frames are given, (F,).
        slots: flat indices (S,) that this step computes, in rising order; may be none.
        layers: of the model.
        text: T, text slots.
    """

    def __init__(
        self,
        backend: AttentionBackend | None,
        grid: Grid,
        given: tuple[bool, ...],
        slots: Tensor,
        layers: int,
        text: int,
    ) -> None:
        self.slots, self.text = slots, text
        self.positions = Position(*(axis[:, None] for axis in grid.position(slots)))
        self.places = _as_slice(slots + text)
        self.places_with_text = _as_slice(torch.cat([torch.arange(text, device=slots.device), slots + text]))
        keys = torch.arange(grid.tokens, device=slots.device)
        own = slots[:, None] // grid.frame_tokens == keys // grid.frame_tokens
        whole = torch.tensor(given, device=slots.device)[slots // grid.frame_tokens]
        self.base = VisibleKeys(own & ((keys <= slots[:, None]) | whole[:, None]), text, grid)
        self.plus: list[VisibleKeys] = []
        if backend is not None:
            rows = [Visibility(backend, grid, given, layer).rows(slots) for layer in range(layers)]
            for layer, mine in enumerate(rows):
                # A pattern usually repeats after one or two layers.
                same = next(i for i in range(layer + 1) if torch.equal(rows[i], mine))
                self.plus.append(VisibleKeys(mine, text, grid) if same == layer else self.plus[same])


class CachedStep:
    """A few slots, attending to themselves and to what earlier steps left in the cache."""

    def __init__(self, cache: Cache, plan: StepPlan, *, text: bool) -> None:
        """Args: cache, written to; plan of the step; text: whether this pass computes the text, too."""
        self.cache, self.plan = cache, plan
        self.text = plan.text if text else 0
        self.places = plan.places_with_text if text else plan.places

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`."""
        self.cache.write(layer, 0, self.places, k, v)
        t = self.text
        frames = self._attend(layer, 0, q[:, :, t:], self.plan.base, None)
        if not t:
            return frames
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.cache.text_mask)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`."""
        self.cache.write(layer, 1, self.places, k, v)
        return self._attend(layer, 1, q[:, :, self.text :], self.plan.plus[layer], bias)

    def _attend(
        self, layer: int, channel: int, q: Tensor, seen: VisibleKeys, bias: nn.Module | None
    ) -> Tensor:
        if not q.shape[2]:
            return q
        scores = self.cache.padding[..., : seen.count]
        if seen.hidden is not None:
            scores = scores + seen.hidden.to(scores.dtype)
        if bias is not None:
            relative = bias(self.plan.positions, seen.positions).to(scores.dtype)
            scores = scores + nn.functional.pad(relative, (self.plan.text, 0))
        k, v = self.cache.read(layer, channel, seen.places)
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
