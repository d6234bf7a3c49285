"""What one pass through the model computes and reads: R rows, each a slot of one of B sequences.

Shapes as in `cogvid.interfaces.grid`; B with guidance's copies. Rows that read the same keys are one block: G blocks of
at most W rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cogvid.attention.bias import bias_scores
from cogvid.generation.layout import TABLE, CacheLayout
from cogvid.interfaces.decoding import Rows

# To copy keys and values, and read the copy, takes so many times as long as to read them where they are.
_COPIED = 3


@dataclass(frozen=True)
class Groups:
    """Rows by what they read: G groups of at most W.

    Attributes:
        rows: those of each group, padded with any, int64 (G, W) on the CPU.
        order: the same, int64 (G * W,); None where all rows stand in this order.
        back: where each row stands among them, int64 (R,).
        entries: which parts of the cache they read, of which sequence: a slice, or int64 (G,).
    """

    rows: Tensor
    order: Tensor | None
    back: Tensor
    entries: slice | Tensor

    @classmethod
    def of(cls, entry: Tensor, device: torch.device, *, fixed: bool) -> Groups:
        """Rows by their entries, int64 (R,) on the CPU; with `fixed`, G and W are powers of two."""
        ranked, order = entry.sort(stable=True)
        begins = nn.functional.pad(ranked.diff() != 0, (1, 0), value=True)
        first, group = begins.nonzero()[:, 0], begins.cumsum(0) - 1
        within = torch.arange(len(entry)) - first[group]
        count, width, span = len(first), int(within.max()) + 1, int(ranked[-1] - ranked[0]) + 1
        entries: slice | Tensor
        if not fixed and span <= _COPIED * count:
            group, count, entries = ranked - ranked[0], span, slice(int(ranked[0]), int(ranked[-1]) + 1)
        else:
            if fixed:
                count, width = power_of_two(count), power_of_two(width)
            entries = nn.functional.pad(ranked[first], (0, count - len(first))).to(device)
        back = torch.empty_like(order)
        back[order] = group * width + within
        rows = torch.zeros(count * width, dtype=torch.long)
        rows[back] = torch.arange(len(entry))
        regular = not fixed and torch.equal(rows, torch.arange(len(entry)))
        return cls(rows.view(count, width), None if regular else rows.to(device), back.to(device), entries)


@dataclass(frozen=True)
class Blocks:
    """Rows that read the same keys, together.

    Attributes:
        groups: of rows.
        scores: what is added to those of the keys, the first of a part, -inf to hide them; (G * H, W, keys).
    """

    groups: Groups
    scores: Tensor


@dataclass(frozen=True)
class Gathered:
    """Rows with keys of their own, beside those of the text.

    Attributes:
        text: the text, read in blocks.
        places: where the frame keys stand in the flat cache, int64 (2 * H * R * m,).
        scores: what is added to theirs, -inf to hide them; (H * R, 1, m).
    """

    text: Blocks
    places: Tensor
    scores: Tensor


@dataclass(frozen=True)
class View:
    """One layer of a channel in a pass.

    Attributes:
        kept: where keys and values of the rows are kept in the flat cache, int64 (2 * H * R,).
        seen: what the rows see.
    """

    kept: Tensor
    seen: Blocks | Gathered


@dataclass(frozen=True)
class Pass:
    """What one pass computes and reads.

    Attributes:
        slots: int64 (R,); those of idle rows are 0.
        base: the base channel.
        plus: by layer of the plus channel.
    """

    slots: Tensor
    base: View
    plus: tuple[View, ...]


class Cache:
    """Keys and values of both channels of every layer, for one batch of sequences; all of it is allocated at once.

    Args:
        layers, heads, head_size: of the model.
        batch: B, with guidance's copies.
        frames: the layout of the base channel.
        layouts: of the plus channel's layers; empty without one.
        dtype, device: of keys and values.

    Attributes:
        base, plus: by layer, (2, parts, B, H, P + 2, K): keys, then values; see `cogvid.generation.layout`.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_size: int,
        batch: int,
        frames: CacheLayout,
        layouts: Sequence[CacheLayout],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        def allocate(layout: CacheLayout) -> Tensor:
            # Zeros: what is hidden by its score still is multiplied by a share of nothing, and has to be finite.
            shape = 2, layout.parts, batch, heads, layout.size + 2, head_size
            return torch.zeros(shape, dtype=dtype, device=device)

        self.frames, self.layouts = frames, layouts
        self.base = [allocate(frames) for _ in range(layers)]
        self.plus = [allocate(layout) for layout in layouts]


class PassPlan:
    """Lays out the passes of one generation.

    Args:
        cache: that the passes write and read.
        biases: of the plus channel's layers; empty without one.
        text_scores: what is added to the scores of the text, -inf to hide padding; (B, T).
        known: slots that are in the cache already, int64 (S,).
        fixed: make the tensors of all passes of a width equally large, as compiled code needs them.
    """

    def __init__(
        self, cache: Cache, biases: Sequence[nn.Module | None], text_scores: Tensor, known: Tensor, *, fixed: bool
    ) -> None:
        self.fixed, self.device, self.batch = fixed, text_scores.device, len(text_scores)
        heads = cache.base[0].shape[3]
        self._base = Channel(cache.frames, heads, text_scores)
        # Layers with the same mask share a layout, and those with the same bias a view of it.
        self._plus = {layout: Channel(layout, heads, text_scores) for layout in dict.fromkeys(cache.layouts)}
        self._layers = list(zip(cache.layouts, biases, strict=True))
        for channel in (self._base, *self._plus.values()):
            channel.fill(known)

    def lay_out(self, rows: Rows, copies: int) -> Pass:
        """A pass of rows; with guidance's `copies` of each, one copy behind the other."""
        samples, slots = rows.samples, rows.slots
        if self.fixed:
            idle = power_of_two(len(slots)) - len(slots)
            samples, slots = nn.functional.pad(samples, (0, idle)), nn.functional.pad(slots, (0, idle), value=-1)
        first = torch.arange(copies) * (self.batch // copies)
        samples, slots = (first[:, None] + samples).flatten(), slots.repeat(copies)
        biases: dict[CacheLayout, list[nn.Module | None]] = {}
        for layout, bias in self._layers:
            biases.setdefault(layout, []).append(bias)
        plus = {x: self._plus[x].views(samples, slots, own, fixed=self.fixed) for x, own in biases.items()}
        base = self._base.views(samples, slots, [None], fixed=self.fixed)[None]
        layers = tuple(plus[layout][bias] for layout, bias in self._layers)
        return Pass(slots.clamp(min=0).to(self.device), base, layers)


class Channel:
    """A cache of one layout and what is on it so far; lays out its part of each pass.

    Args:
        layout: of the cache.
        heads: H.
        text_scores: what is added to the scores of the text, -inf to hide padding; (B, T).

    Attributes:
        open: what is added to the scores of each place: -inf where nothing was computed yet; (parts, B, P + 2). Two
            places stand behind each part: one is never seen, and one is for rows that are idle.
    """

    def __init__(self, layout: CacheLayout, heads: int, text_scores: Tensor) -> None:
        self.layout, self.heads, self.batch, self.device = layout, heads, len(text_scores), text_scores.device
        self.open = text_scores.new_full((layout.parts, self.batch, layout.size + 2), -torch.inf)
        self.open[..., : layout.text] = text_scores
        # Where the keys, then the values, of each head begin, in parts of a sequence.
        self._heads = torch.arange(2)[:, None] * layout.parts * self.batch * heads + torch.arange(heads)
        self._tables: dict[nn.Module | None, Tensor] = {}

    def fill(self, slots: Tensor) -> None:
        """Slots (S,) of all sequences are there."""
        self.open[self.layout.part[slots], :, self.layout.place[slots]] = 0

    def views(
        self, samples: Tensor, slots: Tensor, biases: Sequence[nn.Module | None], *, fixed: bool
    ) -> dict[nn.Module | None, View]:
        """Of a pass, by the bias of a layer.

        Args:
            samples: the sequence of each row, int64 (R,) on the CPU.
            slots: theirs, -1 for idle rows.
            biases: of the layers.
            fixed: make the tensors of all passes of as many rows equally large, as compiled code needs them.
        """
        layout, size = self.layout, self.layout.size + 2
        idle, slots = slots < 0, slots.clamp(min=0)
        entry = layout.part[slots] * self.batch + samples
        place = layout.place[slots].masked_fill(idle, size - 1)
        kept = ((self._heads[..., None] + entry * self.heads) * size + place).flatten().to(self.device)
        # What a row sees of its own pass is there when it looks.
        self.open.view(-1).index_fill_(0, (entry * size + place)[~idle].to(self.device), 0)
        groups = Groups.of(entry, self.device, fixed=fixed)
        opened = self.open.view(-1, size)[groups.entries][:, None, None]
        views = {}
        if layout.sparse:
            text = self._blocks(groups, opened[..., : layout.text].expand(-1, -1, groups.rows.shape[1], -1))
            places = layout.neighbours.of(slots)
            begins = (self._heads[..., None, None] + entry[:, None] * self.heads) * size
            flat = (begins + places).flatten().to(self.device)
            scores = self.open.view(-1)[(entry[:, None] * size + places).to(self.device)]
            for bias in dict.fromkeys(biases):
                own = self._added(slots[None], bias).add_(scores)[0].expand(self.heads, -1, -1)
                views[bias] = View(kept, Gathered(text, flat, own.flatten(0, 1)[:, None]))
            return views
        count = layout.size if fixed or layout.leading is None else int(layout.leading[slots].max())
        rows = slots[groups.rows]
        for bias in dict.fromkeys(biases):
            views[bias] = View(kept, self._blocks(groups, self._added(rows, bias)[..., :count] + opened[..., :count]))
        return views

    def _blocks(self, groups: Groups, scores: Tensor) -> Blocks:
        """Of scores (G, H or 1, W, keys)."""
        return Blocks(groups, scores.expand(-1, self.heads, -1, -1).flatten(0, 1))

    def _added(self, slots: Tensor, bias: nn.Module | None) -> Tensor:
        """What is added to the scores of what slots (G, W) see, whatever is there: (G, 1 or H, W, places)."""
        every, heads = len(self.layout.place), 1 if bias is None else self.heads
        if every * heads * self.layout.seen > TABLE:
            return self._computed(slots.flatten(), bias).unflatten(1, slots.shape).transpose(0, 1).contiguous()
        if bias not in self._tables:
            self._tables[bias] = self._computed(torch.arange(every), bias).contiguous()
        rows = (torch.arange(heads)[:, None] * every + slots[:, None]).to(self.device)
        return self._tables[bias].view(-1, self.layout.seen).index_select(0, rows.flatten()).view(*rows.shape, -1)

    def _computed(self, slots: Tensor, bias: nn.Module | None) -> Tensor:
        """The same of slots (S,), (1 or H, S, places)."""
        layout = self.layout
        scores = self.open.new_zeros(1, len(slots), layout.seen)
        if layout.sparse:
            keys = nn.functional.pad(layout.slots[0], (0, 1))[layout.neighbours.of(slots)]
        else:
            keys = layout.slots[layout.part[slots]]
            scores = scores.masked_fill(layout.hidden(slots).to(self.device), -torch.inf)
        if bias is None:
            return scores
        query, key = (layout.grid.position(x.to(self.device)) for x in (slots[:, None], keys))
        added = bias_scores(bias, query, key, self.heads).to(scores.dtype)
        if not layout.sparse:
            added = added.index_fill(2, torch.arange(layout.text, device=self.device), 0)
        return scores + added


def power_of_two(count: int) -> int:
    """The next one."""
    return 1 << (count - 1).bit_length()
