"""Lays out many steps at once, since most of the work is the same for all; R rows, those of some steps.

Shapes as in `cogvid.generation.step`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask
from cogvid.generation.cache import Cache
from cogvid.generation.layout import frame_ranks
from cogvid.generation.rows import Rows
from cogvid.generation.step import OwnFrame, Step
from cogvid.generation.visible import VisibleKeys, VisibleRows, added_scores, each, flat
from cogvid.interfaces.grid import Grid

# Scores of rows that are laid out at once, in elements.
_LAID_OUT = 1 << 22
# Bytes of keys and values that are read, on a CPU, in about the time that calling attention once more takes.
_WORTH_A_CALL = 1 << 18


class Steps:
    """The steps of one generation, laid out; iterate over it.

    Args:
        rows: of the steps.
        grid: of the sequences.
        known: which frames are there before the first step, (F,).
        masks: of the plus channel's layers; empty without one.
        biases: of the same layers.
        cache: that the steps will write and read.
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
        cache: Cache,
        text_scores: Tensor,
        *,
        fixed: bool = False,
    ) -> None:
        self.rows, self.grid, self.fixed = rows, grid, fixed
        self.rank = frame_ranks(known)
        batch, heads = cache.base[0].shape[2:4]
        self.text_scores = text_scores[:, None].expand(-1, heads, -1)
        self.place_bytes = cache.base[0][:, 0, :, :, 0].nbytes
        # Layers with the same mask and no bias are laid out once.
        self.layers = list(zip(masks, biases, strict=True))
        self.visible = {
            mask: VisibleKeys(mask, layout, rows.slots, self.text_scores, fixed=fixed)
            for mask, layout in zip(masks, cache.layouts, strict=True)
        }
        longest = max([grid.frame_tokens, *(keys.most for keys in self.visible.values())])
        row = batch * heads * (text_scores.shape[1] + longest) * (1 + len(set(self.layers)))
        self.rows_at_once = max(1, _LAID_OUT // row)

    def __iter__(self) -> Iterator[Step]:
        """The steps, in order."""
        first = 0
        widths: list[int] = []
        for width in self.rows.widths:
            if widths and sum(widths) + width > self.rows_at_once:
                yield from self._laid_out(first, widths)
                first, widths = first + sum(widths), []
            widths.append(width)
        yield from self._laid_out(first, widths)

    def _laid_out(self, first: int, widths: Sequence[int]) -> Iterator[Step]:
        """The steps whose rows begin at `first`."""
        n, (batch, heads, text), device = self.grid.frame_tokens, self.text_scores.shape, self.text_scores.device
        rows = slice(first, first + sum(widths))
        idle, slots = self.rows.slots[rows] < 0, self.rows.slots[rows].clamp(min=0)
        frame, place = self.rank[slots // n], slots % n
        frames = each(frame, batch) * batch + torch.arange(batch)
        # Behind each frame there is one more place, which idle rows write to, and nothing reads.
        begins = torch.arange(2 * self.grid.frames * batch * heads).view(2, -1, heads) * (text + n + 1)
        kept = begins[:, frames] + each(torch.where(idle, n, place) + text, batch)[..., None]
        inputs = slots + slots // n
        outputs = torch.where(idle, self.grid.tokens + self.grid.frames, inputs + 1)
        model = slots[:, 0] if slots.shape[1] == 1 else each(slots, batch)
        index = [x.to(device) for x in (model, inputs, outputs, frames, kept.movedim(1, 0))]
        base_scores = added_scores(self.text_scores, place + 1, n if self.fixed else int(place.max()) + 1)
        seen = {mask: VisibleRows(keys, rows) for mask, keys in self.visible.items()}
        scores = {layer: seen[layer[0]].with_bias(layer[1]) for layer in self.layers}
        start = 0
        for width in widths:
            part = slice(start, start + width)
            start += width
            model_now, inputs_now, outputs_now, frames_now, kept_now = (x[part] for x in index)
            plus = {layer: seen[layer[0]].plus(part, own[part]) for layer, own in scores.items()}
            yield Step(
                slots=model_now if slots.shape[1] == 1 else model_now.T,
                inputs=inputs_now.T,
                outputs=outputs_now.T,
                tokens=int((~idle[part]).sum()),
                base_kept=kept_now.movedim(0, -1).flatten(),
                base=self._base(frame[part], place[part], frames_now, base_scores[part]),
                plus=tuple(plus[layer] for layer in self.layers),
            )

    def _base(self, frame: Tensor, place: Tensor, frames: Tensor, scores: Tensor) -> tuple[OwnFrame, ...]:
        """The base channel of a step. Rows are read together as far as the fullest of their frames is filled."""
        own, places, text = frame[:, 0].tolist(), place.amax(1).tolist(), self.text_scores.shape[2]
        in_turn = frame.shape[1] == 1 and own == list(range(own[0], own[0] + len(own)))
        if self.fixed or not in_turn:
            count = text + (self.grid.frame_tokens if self.fixed else max(places) + 1)
            return (OwnFrame(slice(0, len(own)), frames.flatten(), count, flat(scores[..., :count])),)
        parts = []
        for part in _parts(places, _WORTH_A_CALL // self.place_bytes):
            count = text + max(places[part]) + 1
            cached = slice(own[0] + part.start, own[0] + part.stop)
            parts.append(OwnFrame(part, cached, count, flat(scores[part, ..., :count])))
        return tuple(parts)


def _parts(places: list[int], spread: int) -> Iterator[slice]:
    """The rows, one after the other, in parts whose places are at most so far apart."""
    start = 0
    for stop in range(1, len(places) + 1):
        if stop == len(places) or max(places[start : stop + 1]) - min(places[start : stop + 1]) > spread:
            yield slice(start, stop)
            start = stop
