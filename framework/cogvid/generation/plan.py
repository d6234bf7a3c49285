"""What each step of a schedule computes and reads, laid out for many steps at once.

A step is S rows, each a slot of every sample; where samples have different schedules, a row can be idle for some of
them. In the caches, frames stand in the order of `cache_order`. Shapes as in `cogvid.grid`, B samples with guidance's
copies, R rows of several steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.generation.neighbours import Neighbours
from cogvid.grid import Grid, Position

# Keys of rows that are laid out at once, in elements.
_LAID_OUT = 1 << 21
# Rows whose own frames are read together, as far as the fullest of them is filled.
_TOGETHER = 4


def cache_order(known: tuple[bool, ...]) -> Tensor:
    """The frames as they stand in the cache: the known ones first, int64 (F,)."""
    return (~torch.tensor(known)).long().argsort(stable=True)


@dataclass(frozen=True)
class Rows:
    """Which slot each row of each step computes.

    Attributes:
        slots: int64 (R, 1), or (R, samples) where samples have different schedules; -1 for idle rows.
        widths: rows of each step.
    """

    slots: Tensor
    widths: tuple[int, ...]

    @classmethod
    def of(cls, schedules: Tensor, known: tuple[bool, ...], *, rounded: bool = False) -> Rows:
        """The rows of one schedule (F, N), or of one for each sample (samples, F, N).

        Args:
            schedules: see above.
            known: which frames are there before the first step, (F,).
            rounded: make the width of each step a power of two, with idle rows.

        Raises:
            ValueError: a schedule does not process the slots of each frame that is not known one after the other.
        """
        flat = schedules.view(-1, len(known), schedules.shape[-1])
        is_known = torch.tensor(known)
        rising = flat[:, ~is_known]
        if (flat[:, is_known] >= 0).any() or (rising < 0).any() or (rising.diff(dim=-1) < 1).any():
            raise ValueError("a schedule has -1 in known frames, and rising steps in each of the others")
        flat = flat.flatten(1)
        steps = int(flat.max()) + 1
        counts = torch.stack([torch.bincount(own[own >= 0], minlength=steps) for own in flat])
        widths = counts.amax(0).clamp(min=1)
        if rounded:
            widths = torch.tensor([1 << (width - 1).bit_length() for width in widths.tolist()], dtype=torch.long)
        starts = widths.cumsum(0) - widths
        slots = torch.full((int(widths.sum()), len(flat)), -1)
        for sample, (own, count) in enumerate(zip(flat, counts, strict=True)):
            order = own.argsort(stable=True)[int((own < 0).sum()) :]
            within = torch.arange(len(order)) - (count.cumsum(0) - count)[own[order]]
            slots[starts[own[order]] + within, sample] = order
        return cls(slots, tuple(widths.tolist()))


@dataclass(frozen=True)
class OwnFrame:
    """What some rows of a step see of their own frames, in the base channel.

    Attributes:
        rows: which of the step's, s of them.
        frames: theirs in the cache: a slice of it, or numbers of (frame, sample), (s * B,).
        count: keys of a row, those of the text first.
        scores: what is added to their scores, -inf to hide them; (s, B, 1, count).
    """

    rows: slice
    frames: slice | Tensor
    count: int
    scores: Tensor


@dataclass(frozen=True)
class Visible:
    """What the rows of a step see in one layer of the plus channel.

    Attributes:
        places: where the frame keys stand in the flat cache, (2 * B * H * S * count,); None for the first of each
            sample, behind the text.
        count: frame keys of a row.
        scores: what is added to the scores of the text and of them, -inf to hide them; (B, 1 or H, S, T + count).
    """

    places: Tensor | None
    count: int
    scores: Tensor


@dataclass(frozen=True)
class StepPlan:
    """What one step computes and reads.

    Attributes:
        slots: for the model, int64 (S,) or (B, S); idle rows say 0.
        inputs, outputs: where tokens are read and written on the tape of each sample, int64 (1 or samples, S).
        tokens: slots that are generated; with one schedule for all samples, those of one sample.
        base_places, plus_places: where keys and values are kept in the flat caches, int64 (2 * B * H * S,).
        base: what is seen there, by parts of the rows.
        plus: what is seen there, by layers.
        text: T.
    """

    slots: Tensor
    inputs: Tensor
    outputs: Tensor
    tokens: int
    base_places: Tensor
    plus_places: Tensor
    base: tuple[OwnFrame, ...]
    plus: tuple[Visible, ...]
    text: int


@dataclass(frozen=True)
class _Seen:
    """What the rows of several steps see under one mask.

    Attributes:
        leading: whether every step reads one piece of the cache.
        places: of frame keys, int64 (R, 1 or samples, K), or (K,) where they lead.
        counts: how many of them count in each row, int64 (R, 1 or samples).
        scores: see `Planner._scores`.
    """

    leading: bool
    places: Tensor
    counts: Tensor
    scores: Tensor


class Planner:
    """Plans the steps of one generation; iterate over it.

    Args:
        rows: of the steps.
        grid: of the sequences.
        known: which frames are there before the first step, (F,).
        masks: of the plus channel's layers; empty without one.
        biases: of the same layers.
        heads: of the model.
        text_scores: what is added to the scores of the text, -inf to hide padding; (B, T).
        fixed: make the tensors of all steps of a width equally large, as compiled code needs them.
    """

    def __init__(
        self,
        rows: Rows,
        grid: Grid,
        known: tuple[bool, ...],
        masks: Sequence[CompactMask],
        biases: Sequence[nn.Module | None],
        heads: int,
        text_scores: Tensor,
        *,
        fixed: bool = False,
    ) -> None:
        self.rows, self.grid, self.masks, self.biases, self.fixed = rows, grid, masks, biases, fixed
        self.heads, self.text_scores, (self.batch, self.text) = heads, text_scores, text_scores.shape
        self.order = cache_order(known)
        self.rank = self.order.argsort()
        self.alike = rows.slots.shape[1] == 1
        # Where the pieces of the plus channel's cache begin, for keys and values of each sample and head.
        pieces = torch.arange(2 * self.batch * heads, device=text_scores.device) * (self.text + grid.tokens + 1)
        self._pieces = pieces.view(2, self.batch, heads, 1)
        self._neighbours = {mask: Neighbours(mask, self.order) for mask in dict.fromkeys(masks)}
        own = rows.slots.clamp(min=0)
        self._counts = {mask: each.counts(own) for mask, each in self._neighbours.items()}
        self._most = max((int(counts.max()) for counts in self._counts.values()), default=0)
        biased = max(1, sum(heads for bias in biases if bias is not None))
        row = self.batch * (self.text + max(self._most, grid.frame_tokens)) * biased
        self._rows_at_once = max(1, _LAID_OUT // row)

    def __iter__(self) -> Iterator[StepPlan]:
        """The steps, in order."""
        first = 0
        widths: list[int] = []
        leading: tuple[bool, ...] = ()
        for width, leads in zip(self.rows.widths, self._leads(), strict=True):
            if widths and (leads != leading or sum(widths) + width > self._rows_at_once):
                yield from self._plans(first, widths, leading)
                first, widths = first + sum(widths), []
            widths.append(width)
            leading = leads
        if widths:
            yield from self._plans(first, widths, leading)

    def _leads(self) -> list[tuple[bool, ...]]:
        """For each step and distinct mask, whether a single row sees one piece of the cache from its start."""
        widths = torch.tensor(self.rows.widths)
        alone = (widths == 1) & self.alike & (not self.fixed)
        starts = widths.cumsum(0) - widths
        own = self.rows.slots.clamp(min=0)
        leads = [(alone & each.leading(own).all(1)[starts]).tolist() for each in self._neighbours.values()]
        return list(zip(*leads, strict=True)) if leads else [()] * len(widths)

    def _plans(self, first: int, widths: Sequence[int], leading: Sequence[bool]) -> Iterator[StepPlan]:
        """The steps whose rows begin at `first`; `leading` is theirs."""
        n, device = self.grid.frame_tokens, self.text_scores.device
        slots = self.rows.slots[first : first + sum(widths)]
        idle, slots = slots < 0, slots.clamp(min=0)
        frame, place = self.rank[slots // n], slots % n
        frames = self._each(frame) * self.batch + torch.arange(self.batch)
        # The last place of each frame, or of each sample, is what idle rows write to, and nothing reads.
        base_places = self._flat(frames, torch.where(idle, n, place), n, self.grid.frames * self.batch)
        plus_place = torch.where(idle, self.grid.tokens, frame * n + place)
        plus_places = self._flat(torch.arange(self.batch), plus_place, self.grid.tokens, self.batch)
        inputs = slots + slots // n
        outputs = torch.where(idle, self.grid.tokens + self.grid.frames, inputs + 1)
        model = slots[:, 0] if self.alike else self._each(slots)
        index = [x.to(device) for x in (model, inputs, outputs, base_places, plus_places, frames)]
        length = n if self.fixed else int(place.max()) + 1
        base_scores = self._scores(place + 1, length)
        seen = {
            mask: self._seen(mask, first, slots, lead) for mask, lead in zip(self._neighbours, leading, strict=True)
        }
        biased = [
            None if bias is None else seen[mask].scores + self._bias(bias, slots, seen[mask].places)
            for mask, bias in zip(self.masks, self.biases, strict=True)
        ]
        start = 0
        for width in widths:
            part = slice(start, start + width)
            start += width
            visible = {mask: self._visible(each, part) for mask, each in seen.items()}
            model_now, inputs_now, outputs_now, base_now, plus_now, frames_now = (x[part] for x in index)
            yield StepPlan(
                slots=model_now if self.alike else model_now.T,
                inputs=inputs_now.T,
                outputs=outputs_now.T,
                tokens=int((~idle[part]).sum()),
                base_places=base_now.movedim(0, -1).flatten(),
                plus_places=plus_now.movedim(0, -1).flatten(),
                base=self._own(frame[part], place[part], frames_now, base_scores[part]),
                plus=tuple(
                    visible[mask] if scores is None else self._rescored(visible[mask], scores[part])
                    for mask, scores in zip(self.masks, biased, strict=True)
                ),
                text=self.text,
            )

    def _flat(self, piece: Tensor, place: Tensor, length: int, pieces: int) -> Tensor:
        """Where rows are kept in a cache (2, pieces, H, T + length + 1, K), all but K flattened; (R, 2, B, H)."""
        both, heads = torch.arange(2)[:, None, None], torch.arange(self.heads)
        rows = (both * pieces + piece.expand(len(place), -1)[:, None, :, None]) * self.heads + heads
        return rows * (self.text + length + 1) + self.text + self._each(place)[:, None, :, None]

    def _own(self, frame: Tensor, place: Tensor, frames: Tensor, scores: Tensor) -> tuple[OwnFrame, ...]:
        """The base channel of a step. A few rows at a time: their frames are filled to different places."""
        own, places, width = frame[:, 0].tolist(), place.amax(1).tolist(), len(frame)
        if self.fixed or not self.alike or own != list(range(own[0], own[0] + width)):
            count = self.text + (self.grid.frame_tokens if self.fixed else max(places) + 1)
            return (OwnFrame(slice(0, width), frames.flatten(), count, scores[..., :count]),)
        parts = []
        for start in range(0, width, _TOGETHER):
            part = slice(start, min(start + _TOGETHER, width))
            count = self.text + max(places[part]) + 1
            cached = slice(own[0] + part.start, own[0] + part.stop)
            parts.append(OwnFrame(part, cached, count, scores[part, ..., :count]))
        return tuple(parts)

    def _seen(self, mask: CompactMask, first: int, slots: Tensor, leading: bool) -> _Seen:
        """What rows (R, 1 or samples) from `first` on see under a mask."""
        counts = self._counts[mask][first : first + len(slots)]
        most = self._most if self.fixed else int(counts.max())
        scores, counts = self._scores(counts, most), torch.full_like(counts, most) if self.fixed else counts
        places = torch.arange(most) if leading else self._neighbours[mask].places(slots, most)
        return _Seen(leading, places, counts, scores)

    def _scores(self, counts: Tensor, most: int) -> Tensor:
        """Hides padding, and what lies behind the first `counts` (R, 1 or samples) of `most` keys; (R, B, 1, T + K)."""
        device = self.text_scores.device
        hidden = (torch.arange(most) >= counts[..., None]).to(device)
        behind = torch.zeros(hidden.shape, dtype=self.text_scores.dtype, device=device).masked_fill_(hidden, -torch.inf)
        text = self.text_scores.expand(len(counts), -1, -1)
        return torch.cat([text, self._each(behind)], dim=-1)[:, :, None]

    def _bias(self, bias: nn.Module, slots: Tensor, places: Tensor) -> Tensor:
        """A learned bias of rows, on the text zero; (R, B, H, T + K)."""
        n, device = self.grid.frame_tokens, self.text_scores.device
        keys = (self.order[places // n] * n + places % n).expand(*slots.shape, -1)
        query, key = (Position(*(axis.to(device) for axis in self.grid.position(x))) for x in (slots[..., None], keys))
        scores = bias(query, key).permute(1, 2, 0, 3).to(self.text_scores.dtype)
        return nn.functional.pad(self._each(scores), (self.text, 0))

    def _visible(self, seen: _Seen, part: slice) -> Visible:
        """What the rows of one step see under a mask without a bias."""
        count, places = int(seen.counts[part].max()), None
        if not seen.leading:
            # (S, 1 or B, count) to (1 or B, 1, S * count), in each of the cache's pieces (2, B, H).
            own = seen.places[part, :, :count]
            own = (own if self.alike else self._each(own)).transpose(0, 1).flatten(1)[:, None] + self.text
            places = (self._pieces + own.to(self._pieces.device)).flatten()
        return self._rescored(Visible(places, count, seen.scores), seen.scores[part])

    def _rescored(self, visible: Visible, scores: Tensor) -> Visible:
        """The same keys with other scores, (S, B, 1 or H, T + K)."""
        return replace(visible, scores=scores[..., : self.text + visible.count].permute(1, 2, 0, 3))

    def _each(self, x: Tensor) -> Tensor:
        """(R, 1 or samples, ...) for each sample and each copy of it, (R, B, ...)."""
        if self.alike:
            return x.expand(-1, self.batch, *x.shape[2:])
        return x.repeat(1, self.batch // x.shape[1], *(1 for _ in x.shape[2:]))
