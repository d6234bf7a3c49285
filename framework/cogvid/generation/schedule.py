"""In which order a clip's slots are processed: a schedule says in which step each slot is.

A schedule is int64 (F, N): the step, from 0, of each slot, -1 for those that are known before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Dependencies, Rows
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage, given_frames

# The published model's depth; a pattern that depends on the layer has repeated by then.
LAYERS = 48


def decode_schedule(
    backend: AttentionBackend, grid: Grid, stage: Stage = "sequential", *, layers: int = LAYERS
) -> Tensor:
    """The shortest schedule that generates exactly what one slot at a time would.

    Args:
        backend: whose pattern says what a slot needs.
        grid: of the sequence.
        stage: its causal order; the given frames of an interpolation sequence are known.
        layers: how many layers to look at; a slot waits for what it sees in any of them.

    Returns:
        int64 (F, height * width): the step, from 0, in which each slot is processed; -1 in given frames.
    """
    given = given_frames(stage, grid.frames)
    return shortest_schedule(last_seen(layer_masks(backend.pattern, grid, given, layers), given), given)


def shortest_schedule(reach: Tensor, known: tuple[bool, ...]) -> Tensor:
    """The shortest schedule.

    Slot i of a frame carries token i - 1, so it runs after slot i - 1, and not before any slot of another frame that
    it sees: `step(t, i) = max(step(t, i - 1) + 1, max step(t', i'))`. Slots of one step see each other, since one
    forward pass computes them.

    Args:
        reach: what slots wait for, see `last_seen`.
        known: which frames are not generated, (F,).
    """
    frames, n = reach.shape[:2]
    # One more place for slots that see nothing of a frame.
    steps = torch.full((frames, n + 1), -1)
    places, every = torch.arange(n), torch.arange(frames)
    for frame in (t for t in range(frames) if not known[t]):
        earliest = steps[every, reach[frame]].amax(1).clamp(min=0)
        steps[frame, :n] = (earliest - places).cummax(0).values + places
    return steps[:, :n].contiguous()


def last_seen(masks: Sequence[CompactMask], known: tuple[bool, ...]) -> Tensor:
    """The last place of each other frame that a slot, or one before it in its frame, sees under any mask.

    Of all slots that it sees there, that one is the last to be final.

    Args:
        masks: of the layers; equal ones count once.
        known: which frames are not generated, (F,).

    Returns:
        int64 (F, N, F); -1 where nothing is seen, and of known frames.

    Raises:
        ValueError: a known frame sees a generated one: it could not be processed before.
    """
    masks = list(dict.fromkeys(masks))
    _check_known(masks, known)
    frames, grid = len(known), masks[0].grid
    places = torch.arange(grid.frame_tokens)
    is_known = torch.tensor(known)
    reach = torch.full((frames, grid.frame_tokens, frames), -1)
    for mask in masks:
        # One kind more, the last, for frames that see nothing of each other: -1 is its index, too.
        last = nn.functional.pad(torch.where(mask.spaces, places, -1).amax(2), (0, 0, 0, 1), value=-1)
        reach = torch.maximum(reach, last[mask.kinds].transpose(1, 2))
    own = torch.eye(frames, dtype=torch.bool)
    reach.masked_fill_((own | is_known | is_known[:, None])[:, None], -1)
    return reach.cummax(1).values


def sequential_schedule(grid: Grid, known: tuple[bool, ...]) -> Tensor:
    """One slot a step, frame after frame in raster order.

    Args:
        grid: of the sequence.
        known: which frames are not generated, (F,).
    """
    generated = (~torch.tensor(known)).long()
    first = (generated.cumsum(0) - generated) * grid.frame_tokens
    steps = first[:, None] + torch.arange(grid.frame_tokens)
    return torch.where(generated[:, None] > 0, steps, -1)


def steps_of(schedule: Tensor) -> list[Tensor]:
    """The flat slots of each step, rising, int64 (S,)."""
    flat = schedule.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat + 1)
    return list(order.split(counts.tolist()))[1:]


class Along(Decoding):
    """Decodes along a schedule, each step a pass whose tokens are final: the shortest, or that of a subclass."""

    def schedule(self, needs: Dependencies) -> Tensor:
        """Of some sequences, int64 (F, N)."""
        return shortest_schedule(needs.reach, needs.known)

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        return _Walk(self.schedule(clips.needs), len(clips.tape))


class _Walk(Decoder):
    def __init__(self, schedule: Tensor, batch: int) -> None:
        self.steps, self.batch, self.width = iter(steps_of(schedule)), torch.arange(batch), 0

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        slots = next(self.steps, None)
        if slots is None:
            return None
        self.width = len(slots) * len(self.batch)
        return Rows(self.batch.repeat(len(slots)), slots.repeat_interleave(len(self.batch)))

    def final(self) -> Tensor:
        """See `Decoder`."""
        return torch.ones(self.width, dtype=torch.bool)


def _check_known(masks: Sequence[CompactMask], known: tuple[bool, ...]) -> None:
    is_known = torch.tensor(known)
    for mask in masks:
        sees = (mask.kinds >= 0) & is_known[:, None] & ~is_known
        if sees.any():
            frame, other = sees.nonzero()[0].tolist()
            raise ValueError(f"frame {frame} is known, but sees frame {other}, which is not")
