"""Cross-fade between key frames: interpolation without any idea of motion."""

from __future__ import annotations

import torch
from torch import Tensor

import cogvid


class Linear(cogvid.InterpolationStrategy):
    """Each frame mixes the two key frames around it by its distance to them."""

    learned = False

    def fill(self, frames: Tensor, target: int) -> Tensor:
        """Key frames uint8 (B, F, 3, height, width) to (B, target, 3, height, width), rounded half up."""
        last = frames.shape[1] - 1
        if target <= last:
            raise cogvid.UserError(f"linear: {last + 1} key frames do not fit into {target} frames")
        if last == 0:
            return frames.expand(-1, target, -1, -1, -1)
        # In integers: frame t stands at t * last / whole on the key frames' timeline.
        whole = target - 1
        position = torch.arange(target, device=frames.device) * last
        earlier, share = position // whole, (position % whole).view(-1, 1, 1, 1).int()
        later = (earlier + 1).clamp(max=last)
        mixed = frames[:, earlier] * (whole - share) + frames[:, later] * share
        return ((2 * mixed + whole) // (2 * whole)).to(frames.dtype)


@cogvid.hookimpl
def register_interpolation_strategies() -> dict[str, type]:
    """The strategy `linear`."""
    return {"linear": Linear}
