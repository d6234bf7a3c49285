"""In which order a clip's slots are processed: a schedule says in which step each slot is.

A schedule is int64 (F, N): the step, from 0, of each slot, -1 for those that are known before the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cogvid.attention.compact import CompactMask, layer_masks
from cogvid.interfaces.attention import AttentionBackend
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
    return shortest_schedule(layer_masks(backend.pattern, grid, given, layers), given)


def shortest_schedule(masks: Sequence[CompactMask], known: tuple[bool, ...]) -> Tensor:
    """The shortest schedule under some masks.

    Slot i of a frame carries token i - 1, so it runs after slot i - 1, and not before any slot of another frame that
    it sees: `step(t, i) = max(step(t, i - 1) + 1, max step(t', i'))`. Slots of one step see each other, since one
    forward pass computes them.

    Args:
        masks: of the layers; not empty. Equal ones count once.
        known: which frames are not generated, (F,).

    Raises:
        ValueError: a known frame sees a generated one: it could not be processed before.
    """
    masks = list(dict.fromkeys(masks))
    frames, n = len(known), masks[0].grid.frame_tokens
    places = torch.arange(n)
    # Steps rise within a frame: of all slots that a slot sees there, the last one counts.
    last = [torch.where(mask.spaces, places, -1).amax(2) for mask in masks]
    # One more place for slots that see nothing of a frame.
    steps = torch.full((frames, n + 1), -1)
    for frame in (t for t in range(frames) if not known[t]):
        earliest = torch.zeros(n, dtype=torch.long)
        for mask, reach in zip(masks, last, strict=True):
            for other in (t for t in range(frames) if t != frame and not known[t]):
                kind = int(mask.kinds[frame, other])
                if kind >= 0:
                    assert other < frame, "the causal order"
                    earliest = torch.maximum(earliest, steps[other][reach[kind]])
        steps[frame, :n] = (earliest - places).cummax(0).values + places
    _check_known(masks, known)
    return steps[:, :n].contiguous()


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


def _check_known(masks: Sequence[CompactMask], known: tuple[bool, ...]) -> None:
    is_known = torch.tensor(known)
    for mask in masks:
        sees = (mask.kinds >= 0) & is_known[:, None] & ~is_known
        if sees.any():
            frame, other = sees.nonzero()[0].tolist()
            raise ValueError(f"frame {frame} is known, but sees frame {other}, which is not")
