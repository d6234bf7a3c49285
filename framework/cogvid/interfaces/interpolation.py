"""Interpolation strategies: from key frames to the clip's final frames, as a plan or without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.component import Component
from cogvid.interfaces.mask import Stage, given_frames


@dataclass(frozen=True)
class Window:
    """One sequence for a model: places on the final timeline, and which of them are given."""

    frames: tuple[int, ...]
    given: tuple[bool, ...]


@dataclass(frozen=True)
class Round:
    """Windows that depend only on frames of earlier rounds, so all of them run in one batch.

    Attributes:
        windows: what to fill in; all have the same frames given.
        rate_factor: the windows' frame rate over the key frames' rate, above 0.
        stage: whose model fills it in. A window of the sequential stage begins with its given frames.
    """

    windows: tuple[Window, ...]
    rate_factor: float
    stage: Stage = "interpolation"


class InterpolationStrategy(Component):
    """Turns (key frames, target) into rounds, or fills the frames in by itself.

    The same numbers have the same answer, whatever was asked before (`cogvid.testing.interpolation_conformance`). A
    strategy that uses a model overrides `plan`, and `key_frame_places` where its key frames are not spread over
    the clip; one that needs no model sets `learned = False` and overrides `fill`.
    """

    learned: bool = True

    def key_frame_places(self, key_frames: int, target: int) -> list[int]:
        """Where the key frames stand among the `target` final frames, ascending from 0: spread over the whole clip."""
        return [i * (target - 1) // max(key_frames - 1, 1) for i in range(key_frames)]

    def plan(self, key_frames: int, target: int) -> list[Round]:
        """Rounds that take `key_frames` frames, standing at `key_frame_places`, to `target` frames.

        Raises:
            UserError: the strategy cannot reach `target` frames; the message names the numbers it can reach.
        """
        raise TypeError(f"{type(self).__name__} fills frames without a model: it has no plan")

    def fill(self, frames: Tensor, target: int) -> Tensor:
        """Key frames uint8 (B, F, 3, height, width) to (B, target, 3, height, width), without a model: each clip by
        itself, and where key frames stand evenly, from the first frame to the last, they stay as they are.

        Raises:
            UserError: the strategy cannot reach `target` frames; the message names the numbers.
        """
        raise TypeError(f"{type(self).__name__} interpolates with the model: it has no fill")


def check_plan(name: str, places: Sequence[int], plan: Sequence[Round], target: int) -> None:
    """Refuse a plan that the models cannot carry out.

    Args:
        name: of the strategy.
        places: of the key frames.
        plan: its rounds.
        target: frames of the finished clip.

    Raises:
        UserError: a round has no rate, a window is not like the sequences its model is trained on, reads a frame
            before it is made, makes one again, or some frame is never made.
    """
    frames, made = len(places), set(places)
    for part in plan:
        if not 0 < part.rate_factor < math.inf:
            raise UserError(
                f"interpolation: {name} plans a round with a rate_factor of {part.rate_factor}: it must be above 0."
            )
        fresh: list[int] = []
        for window in part.windows:
            if len(window.frames) != frames or window.given != _trained(window, part.stage, frames):
                form = "every other one" if part.stage == "interpolation" else "some"
                raise UserError(
                    f"interpolation: {name} plans a window that the {part.stage} model is not trained for: all must "
                    f"have {frames} frames (video.frames), {form} given from the first on."
                )
            missing = {t for t, given in zip(window.frames, window.given, strict=True) if given} - made
            if missing:
                raise UserError(f"interpolation: {name} gives a window frame {min(missing)} before it is made.")
            fresh += [t for t, given in zip(window.frames, window.given, strict=True) if not given]
        if len({window.given for window in part.windows}) > 1:
            raise UserError(f"interpolation: {name} plans a round whose windows have different frames given.")
        if len(set(fresh)) < len(fresh) or not made.isdisjoint(fresh):
            raise UserError(f"interpolation: {name} makes a frame twice.")
        made.update(fresh)
    if made != set(range(target)):
        raise UserError(f"interpolation: {name} makes {len(made)} frames where {target} are wanted.")


def check_fill(
    name: str, strategy: InterpolationStrategy, key_frames: int, target: int, height: int, width: int
) -> None:
    """Refuse a strategy without a model that does not fill in the wanted frames: it is tried on a black clip.

    Args:
        name: of the strategy.
        strategy: one that is not learned.
        key_frames: how many frames it is given.
        target: frames of the finished clip.
        height: of them, in pixels.
        width: the same.

    Raises:
        UserError: it cannot reach so many frames, or what it makes is no such clip.
    """
    filled = strategy.fill(torch.zeros(1, key_frames, 3, height, width, dtype=torch.uint8), target)
    if filled.dtype is not torch.uint8 or filled.shape != (1, target, 3, height, width):
        raise UserError(
            f"{name} fills in {str(filled.dtype).removeprefix('torch.')} {tuple(filled.shape)} where uint8 "
            f"{(1, target, 3, height, width)} is wanted: (clips, frames, 3, height, width)"
        )


def _trained(window: Window, stage: Stage, frames: int) -> tuple[bool, ...]:
    """The given frames that the stage's model knows windows with; as many as this one has, for the sequential one."""
    if stage == "interpolation":
        return given_frames(stage, frames)
    known = sum(window.given)
    return (True,) * known + (False,) * (frames - known)
