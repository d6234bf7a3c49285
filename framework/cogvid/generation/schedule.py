"""In which order a clip's slots are processed."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.grid import Grid

Schedule = list[Tensor]
"""The steps of a generation, each the flat slots (S,) that one forward pass processes."""


def sequential_schedule(grid: Grid, known_frames: tuple[bool, ...]) -> Schedule:
    """One slot a step, frame after frame in raster order, without the known frames.

    Args:
        grid: of the clip.
        known_frames: which frames are not generated, (F,).
    """
    n = grid.frame_tokens
    generated = [frame for frame, known in enumerate(known_frames) if not known]
    return [torch.tensor([frame * n + i]) for frame in generated for i in range(n)]
