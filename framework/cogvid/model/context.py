"""Where keys and values come from: a whole sequence at once, or a cache that grows step by step.

The layers know neither; they ask a context for both channels' attention. See `transformer.py` for the shapes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from cogvid.attention.backend import Attention, AttentionBackend
from cogvid.attention.compact import CompactMask
from cogvid.attention.dense import masked_attention
from cogvid.attention.mask import Visibility
from cogvid.attention.tiles import TiledAttention
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


class FullSequence:
    """All slots of a sequence in one pass, for training and scoring."""

    def __init__(
        self, backend: AttentionBackend | None, grid: Grid, given: tuple[bool, ...], text_mask: Tensor
    ) -> None:
        """Args: backend of the plus channel; grid; given frames, (F,); text_mask, bool (B, T)."""
        self.backend, self.grid, self.given, self.text_mask = backend, grid, given, text_mask
        self.text = text_mask.shape[1]

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`."""
        t = self.text
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.text_mask)
        frames = _base_attention(self.grid, self.given, q.device)(q[:, :, t:], k, v, self.text_mask, None)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`."""
        assert self.backend is not None
        attention = _plus_attention(self.backend, self.grid, self.given, layer, q.device)
        return attention(q[:, :, self.text :], k, v, self.text_mask, bias)


@lru_cache(maxsize=256)
def _plus_attention(
    backend: AttentionBackend, grid: Grid, given: tuple[bool, ...], layer: int, device: torch.device
) -> Attention:
    """The attention of a layer, whose mask does not change between steps."""
    return backend.prepare(Visibility(backend, grid, given, layer), device)


@lru_cache(maxsize=16)
def _base_attention(grid: Grid, given: tuple[bool, ...], device: torch.device) -> TiledAttention:
    """The base channel's: each frame sees itself, whole where it is given, raster-causally where not."""
    whole = torch.ones(grid.frame_tokens, grid.frame_tokens, dtype=torch.bool)
    kinds = torch.full((grid.frames, grid.frames), -1).diagonal_scatter(torch.tensor(given).long())
    spaces = torch.stack([whole.tril(), whole])
    return TiledAttention(CompactMask(grid, kinds, spaces), device)


class Cache:
    """Keys and values of both channels of every layer, for one batch of sequences.

    In the plus channel the text stands once, before all frames; in the base channel once before each frame,
    so that what a slot sees there lies in one piece and need not be gathered.

    Args:
        layers, heads, head_size: of the model.
        text_mask: bool (B, T).
        grid: the frames of the sequences.
        plus: whether there is a plus channel.
        dtype: of keys and values.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_size: int,
        text_mask: Tensor,
        grid: Grid,
        plus: bool,
        dtype: torch.dtype,
    ) -> None:
        self.text_mask = text_mask
        batch, text = text_mask.shape
        device = text_mask.device
        pieces = [(grid.frames, grid.frame_tokens)] + [(1, grid.tokens)] * plus
        self._channels = [
            torch.zeros(layers, 2, batch, heads, copies, text + slots, head_size, dtype=dtype, device=device)
            for copies, slots in pieces
        ]
        # Added to scores: what text and any number of visible frame keys look like.
        self.padding = torch.zeros(batch, 1, 1, text + grid.tokens, dtype=dtype, device=device)
        self.padding[..., :text].masked_fill_(~text_mask[:, None, None, :], float("-inf"))

    def write(self, layer: int, channel: int, places: slice | Tensor, k: Tensor, v: Tensor) -> None:
        """Keep keys and values (B, H, S, K) of frame slots at `places` (S,)."""
        keys, values = self._channels[channel][layer].flatten(3, 4)
        keys[:, :, places], values[:, :, places] = k, v

    def write_text(self, layer: int, channel: int, k: Tensor, v: Tensor) -> None:
        """Keep keys and values (B, H, T, K) of the text."""
        keys, values = self._channels[channel][layer]
        text = k.shape[2]
        keys[:, :, :, :text], values[:, :, :, :text] = k[:, :, None], v[:, :, None]

    def read(self, layer: int, channel: int, places: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, K) at `places` (S,); a slice is not copied."""
        both = self._channels[channel][layer].flatten(3, 4)
        chosen = both[:, :, :, places] if isinstance(places, slice) else both.index_select(3, places)
        return chosen[0], chosen[1]


def _places(slots: Tensor, text: int, piece: int) -> Tensor:
    """Where frame slots stand in a channel of the cache: the text comes before every `piece` of them."""
    return slots + (slots // piece + 1) * text


def _as_slice(places: Tensor) -> slice | Tensor:
    """Rising places that follow each other as a slice: then nothing has to be gathered."""
    first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
    return slice(first, last + 1) if last - first + 1 == len(places) else places


class VisibleKeys:
    """The keys that some queries see, the text in front.

    Args:
        rows: mask rows, bool (Q, tokens).
        text: T, text slots.
        piece: frame slots behind each copy of the text in this channel of the cache.
        grid: the frames of the sequence.
    """

    def __init__(self, rows: Tensor, text: int, piece: int, grid: Grid) -> None:
        slots = rows.any(0).nonzero()[:, 0]
        visible = rows[:, slots]
        self.positions = grid.position(slots)
        first = slots[:1] // piece * (text + piece)
        before = torch.arange(text, device=slots.device) + (first if len(first) else 0)
        self.places = _as_slice(torch.cat([before, _places(slots, text, piece)]))
        self.count = text + len(slots)
        self.hidden = None
        if not visible.all():
            hidden = torch.zeros(len(rows), self.count, device=slots.device)
            self.hidden = hidden.masked_fill_(nn.functional.pad(~visible, (text, 0)), float("-inf"))


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
        n = grid.frame_tokens
        self.base_places = _as_slice(_places(slots, text, n))
        self.plus_places = _as_slice(_places(slots, text, grid.tokens))
        keys = torch.arange(grid.tokens, device=slots.device)
        own = slots[:, None] // n == keys // n
        whole = torch.tensor(given, device=slots.device)[slots // n]
        self.base = VisibleKeys(own & ((keys <= slots[:, None]) | whole[:, None]), text, n, grid)
        self.plus: list[VisibleKeys] = []
        if backend is not None:
            rows = [Visibility(backend, grid, given, layer).rows(slots) for layer in range(layers)]
            for layer, mine in enumerate(rows):
                # A pattern usually repeats after one or two layers.
                same = next(i for i in range(layer + 1) if torch.equal(rows[i], mine))
                seen = VisibleKeys(mine, text, grid.tokens, grid) if same == layer else self.plus[same]
                self.plus.append(seen)


class CachedStep:
    """A few slots, attending to themselves and to what earlier steps left in the cache."""

    def __init__(self, cache: Cache, plan: StepPlan, *, text: bool) -> None:
        """Args: cache, written to; plan of the step; text: whether this pass computes the text, too."""
        self.cache, self.plan = cache, plan
        self.text = plan.text if text else 0

    def base(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See `AttentionContext`."""
        self._write(layer, 0, self.plan.base_places, k, v)
        t = self.text
        frames = self._attend(layer, 0, q[:, :, t:], self.plan.base, None)
        if not t:
            return frames
        text = text_attention(q[:, :, :t], k[:, :, :t], v[:, :, :t], self.cache.text_mask)
        return torch.cat([text, frames], dim=2)

    def plus(self, layer: int, q: Tensor, k: Tensor, v: Tensor, bias: nn.Module | None) -> Tensor:
        """See `AttentionContext`."""
        self._write(layer, 1, self.plan.plus_places, k, v)
        return self._attend(layer, 1, q[:, :, self.text :], self.plan.plus[layer], bias)

    def _write(self, layer: int, channel: int, places: slice | Tensor, k: Tensor, v: Tensor) -> None:
        t = self.text
        if t:
            self.cache.write_text(layer, channel, k[:, :, :t], v[:, :, :t])
        self.cache.write(layer, channel, places, k[:, :, t:], v[:, :, t:])

    def _attend(self, layer: int, channel: int, q: Tensor, seen: VisibleKeys, bias: nn.Module | None) -> Tensor:
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
