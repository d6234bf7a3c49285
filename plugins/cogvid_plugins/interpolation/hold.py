"""Repeat key frames: the floor that any interpolation has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

import cogvid


class Hold(cogvid.InterpolationStrategy):
    """Each frame is the last key frame at or before its time."""

    learned = False

    def fill(self, frames: Tensor, target: int) -> Tensor:
        """Key frames uint8 (B, F, 3, height, width) to (B, target, 3, height, width)."""
        last = frames.shape[1] - 1
        if target <= last:
            raise cogvid.UserError(f"hold: {last + 1} key frames do not fit into {target} frames")
        time = torch.arange(target, device=frames.device)
        return frames[:, time * last // max(target - 1, 1)]


@cogvid.hookimpl
def register_interpolation_strategies() -> dict[str, type]:
    """The strategy `hold`."""
    return {"hold": Hold}
