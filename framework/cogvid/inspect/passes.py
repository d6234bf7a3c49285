"""The passes that generate a clip: which slots each of them computes, and which of these are final."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cogvid.generation.clips import ClipGenerator, OnStep, Part
from cogvid.generation.schedule import shortest_schedule
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Dependencies, Rows
from cogvid.interfaces.grid import Grid


@dataclass(frozen=True)
class Computed:
    """What one pass computes.

    Attributes:
        slots: of the clip, `frame * N + place`, each once; int64 (R,).
        final: which of them are not computed again, bool (R,).
    """

    slots: Tensor
    final: Tensor


@dataclass(frozen=True)
class PartPasses:
    """Of what one model makes at once of a clip.

    Attributes:
        name: see `cogvid.generation.clips.Part`.
        steps: of the shortest schedule.
        passes: that were made instead.
    """

    name: str
    steps: int
    passes: tuple[Computed, ...]

    @property
    def computed(self) -> int:
        """Slots, each as often as a pass computed it."""
        return sum(len(one.slots) for one in self.passes)

    @property
    def kept(self) -> int:
        """Slots that are generated."""
        return sum(int(one.final.sum()) for one in self.passes)


@dataclass(frozen=True)
class ClipPasses:
    """All passes of a clip, part after part.

    Attributes:
        grid: of the frames that are made.
        timeline: their numbers on the final timeline, (F,).
        parts: in the order that they were made in.
    """

    grid: Grid
    timeline: tuple[int, ...]
    parts: tuple[PartPasses, ...]

    @cached_property
    def passes(self) -> list[tuple[str, Computed]]:
        """Every pass, with the name of its part."""
        return [(part.name, one) for part in self.parts for one in part.passes]

    @property
    def steps(self) -> int:
        """Of the parts' shortest schedules."""
        return sum(part.steps for part in self.parts)

    @cached_property
    def finished(self) -> Tensor:
        """The pass, from 0, in which each slot was final, -1 in given frames; int64 (F, N)."""
        found = torch.full((self.grid.tokens,), -1)
        for number, (_, one) in enumerate(self.passes):
            found[one.slots[one.final]] = number
        return found.view(self.grid.frames, -1)

    @cached_property
    def computed(self) -> Tensor:
        """In how many passes each slot was computed, int64 (F, N)."""
        slots = torch.cat([one.slots for _, one in self.passes])
        return slots.bincount(minlength=self.grid.tokens).view(self.grid.frames, -1)

    def frame_passes(self, frame: int) -> tuple[int, int] | None:
        """The first pass with a slot of a frame, and the last; None of a given one."""
        n = self.grid.frame_tokens
        with_it = [number for number, (_, one) in enumerate(self.passes) if (one.slots // n == frame).any()]
        return (with_it[0], with_it[-1]) if with_it else None


def clip_passes(
    generator: ClipGenerator,
    prompt: str,
    seconds: Sequence[float],
    sample: int,
    seed: int,
    given: Tensor | None = None,
    on_step: OnStep | None = None,
) -> ClipPasses:
    """Generate a clip, and keep what its passes were.

    Args:
        generator: of the clip, with the decoding to look at.
        prompt: its text.
        seconds: durations of its sequences: of the key frames, then of each round.
        sample: its number.
        seed: of the run.
        given: int64 (1, g, N), the key frames that it goes on from.
        on_step: called after each pass with the tokens that were final in it.
    """
    watched, made = copy(generator), list[Part]()
    watched.decoding = recording = _Recording(generator.decoding)
    for _ in watched.pieces([prompt], [seconds], torch.tensor([sample]), seed, on_step, given, made.append):
        pass
    timeline, still = torch.tensor(generator.timeline), generator.image_model.config.grid
    parts = [
        PartPasses(part.name, one.steps, one.passes_of(torch.searchsorted(timeline, part.frame_ids)))
        for part, one in zip(made, recording.decoders, strict=True)
    ]
    return ClipPasses(Grid(len(timeline), still.height, still.width), tuple(generator.timeline), tuple(parts))


class _Recording(Decoding):
    """Decodes as another one does, and keeps the passes.

    Attributes:
        decoders: of the batches that were started, in their order.
    """

    def __init__(self, decoding: Decoding) -> None:
        super().__init__()
        self.decoding = decoding
        self.decoders: list[_Recorder] = []

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        self.decoders.append(_Recorder(self.decoding.start(clips), clips.needs))
        return self.decoders[-1]


class _Recorder(Decoder):
    def __init__(self, decoder: Decoder, needs: Dependencies) -> None:
        self.decoder, self.needs = decoder, needs
        self.rows: list[Rows] = []
        self.finals: list[Tensor] = []

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        rows = self.decoder.next_rows()
        if rows is not None:
            self.rows.append(rows)
        return rows

    def final(self) -> Tensor:
        """See `Decoder`."""
        self.finals.append(self.decoder.final())
        return self.finals[-1]

    @property
    def steps(self) -> int:
        """Of the shortest schedule."""
        return int(shortest_schedule(self.needs.reach, self.needs.known).max()) + 1

    def passes_of(self, frames: Tensor) -> tuple[Computed, ...]:
        """The passes, by the slots of a clip.

        Args:
            frames: which frames of the clip the sequences' are, int64 (B, F).
        """
        n = self.needs.grid.frame_tokens
        return tuple(
            Computed(frames[rows.samples, rows.slots // n] * n + rows.slots % n, final)
            for rows, final in zip(self.rows, self.finals, strict=True)
        )
