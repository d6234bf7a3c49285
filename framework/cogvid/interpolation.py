"""Interpolation strategies: from key frames to the clip's final frames, as a plan or without a model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cogvid.component import Component


@dataclass(frozen=True)
class Window:
    """One sequence for the interpolation model: places on the final timeline, and which of them are given."""

    frames: tuple[int, ...]
    given: tuple[bool, ...]


@dataclass(frozen=True)
class Round:
    """Windows that depend only on frames of earlier rounds, so all of them run in one batch.

    Attributes:
        windows: what to fill in.
        rate_factor: the windows' frame rate over the key frames' rate.
    """

    windows: tuple[Window, ...]
    rate_factor: float


class InterpolationStrategy(Component):
    """Turns (key frames, target) into rounds, or fills the frames in by itself.

    A strategy that uses the interpolation model overrides `plan`; one that needs no model sets
    `learned = False` and overrides `fill`.
    """

    learned: bool = True

    def plan(self, key_frames: int, target: int) -> list[Round]:
        """Rounds that take `key_frames` frames to `target` frames; key frame i stands at
        `i * (target - 1) / (key_frames - 1)` on the final timeline.

        Raises:
            UserError: the strategy cannot reach `target` frames; the message names the numbers it can reach.
        """
        raise TypeError(f"{type(self).__name__} fills frames without a model: it has no plan")

    def fill(self, frames: Tensor, target: int) -> Tensor:
        """Key frames uint8 (B, F, 3, height, width) to (B, target, 3, height, width), without a model."""
        raise TypeError(f"{type(self).__name__} interpolates with the model: it has no fill")
