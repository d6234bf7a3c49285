"""A decode schedule in numbers: how many steps, how many slots in each, and what forces that many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.generation.schedule import last_seen, shortest_schedule
from cogvid.inspect.mask import Subject


@dataclass(frozen=True)
class Stretch:
    """Slots of one frame that run in steps without a gap.

    Attributes:
        frame: of the slots.
        first, last: places in the frame, from 0.
        start: the step of the first one.
        layer: where the first slot sees the last one of the run before, which is in the same step; None where no run
            is before. The first of the layers with this mask.
    """

    frame: int
    first: int
    last: int
    start: int
    layer: int | None

    @property
    def stop(self) -> int:
        """The step of the last slot."""
        return self.start + self.last - self.first


@dataclass(frozen=True)
class ScheduleNumbers:
    """The shortest schedule of a pattern.

    Attributes:
        subject: what it is the schedule of.
        schedule: the step of each slot, from 0, -1 in given frames; int64 (F, N).
        path: slots that each had to wait for the one before, from step 0 to the last: why there are so many steps.
    """

    subject: Subject
    schedule: Tensor
    path: tuple[Stretch, ...]

    @cached_property
    def widths(self) -> Tensor:
        """How many slots each step has, int64 (steps,)."""
        return torch.bincount(self.schedule[self.schedule >= 0])

    @property
    def steps(self) -> int:
        """Of the schedule."""
        return len(self.widths)

    @property
    def slots(self) -> int:
        """That are generated, each one a step of the sequential schedule."""
        return int(self.widths.sum())

    def frame_steps(self, frame: int) -> tuple[int, int] | None:
        """The first and the last step of a frame; None of a given one."""
        if self.subject.given[frame]:
            return None
        return int(self.schedule[frame, 0]), int(self.schedule[frame, -1])


def schedule_numbers(subject: Subject) -> ScheduleNumbers:
    """The shortest schedule under the masks of all layers, and its critical path."""
    masks: dict[CompactMask, int] = {}
    for layer, mask in enumerate(layer_masks(subject.backend.pattern, subject.grid, subject.given, subject.layers)):
        masks.setdefault(mask, layer)
    schedule = shortest_schedule(last_seen(list(masks), subject.given), subject.given)
    return ScheduleNumbers(subject, schedule, critical_path(schedule, masks))


def critical_path(schedule: Tensor, masks: Mapping[CompactMask, int]) -> tuple[Stretch, ...]:
    """A chain of slots from step 0 to the last one, none of which could run earlier than it does.

    A slot runs one step after the slot before it in its frame, or in the step of a slot that it sees in an earlier
    frame. So the chain has a slot in every step, and no schedule has fewer steps.

    Args:
        schedule: the shortest one, int64 (F, N).
        masks: that it obeys, each with a layer that has it.
    """
    n = schedule.shape[1]
    # Equal as long as each slot follows the one before it at once, and larger after each gap.
    waited = schedule - torch.arange(n)
    frame, last = divmod(int(schedule.argmax()), n)
    runs: list[Stretch] = []
    while True:
        first = int(torch.searchsorted(waited[frame], waited[frame, last]))
        start = int(schedule[frame, first])
        if start == 0:
            return (Stretch(frame, first, last, start, None), *reversed(runs))
        layer, *before = _awaited(schedule, masks, frame, first)
        runs.append(Stretch(frame, first, last, start, layer))
        frame, last = before


def _awaited(schedule: Tensor, masks: Mapping[CompactMask, int], frame: int, place: int) -> tuple[int, int, int]:
    """A layer, and frame and place of a slot visible in it that is in the same step; of several the nearest frame."""
    for mask, layer in masks.items():
        for other in reversed(range(frame)):
            kind = int(mask.kinds[frame, other])
            # Steps rise within a frame: only the last visible slot can be in the same step.
            seen = mask.spaces[kind, place].nonzero()[-1:].flatten().tolist() if kind >= 0 else []
            if seen and schedule[other, seen[0]] == schedule[frame, place]:
                return layer, other, seen[0]
    raise AssertionError("the shortest schedule lets a slot wait only for what it needs")
