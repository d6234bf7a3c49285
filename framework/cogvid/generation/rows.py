"""Which slots each step of a schedule computes, as rows: a row is one slot of every sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
