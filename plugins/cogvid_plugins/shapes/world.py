"""A procedural world of captioned clips: one shape moves over a quiet background.

Lengths are shares of the canvas's shorter side, so a scene renders at any size of the canvas's proportions. x grows
to the right, y downwards, and pixel i covers [i, i + 1).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cogvid.errors import UserError

Colour = tuple[int, int, int]
Motion = tuple[str, ...]
Point = tuple[float, float]

# Corners of the RGB cube, slightly inside: as far from each other and from grey as colours get.
COLOURS: dict[str, Colour] = {
    "red": (225, 30, 30),
    "green": (30, 185, 45),
    "blue": (35, 50, 225),
    "yellow": (240, 225, 30),
    "magenta": (220, 40, 215),
    "cyan": (30, 215, 225),
}
SHAPES = ("circle", "square", "triangle", "cross")
# Half the width of the shape's bounding box.
RADII: dict[str, float] = {"small": 5 / 32, "big": 7 / 32}
SIZES = tuple(RADII)
DIRECTIONS: dict[str, Point] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
}
# Four simple motions, then the twelve two-phase motions whose second phase differs from the first.
MOTIONS: tuple[Motion, ...] = (*((name,) for name in DIRECTIONS), *permutations(DIRECTIONS, 2))
# The way of one phase, by the number of phases: all clips move at one speed relative to their length.
TRAVEL: dict[int, float] = {1: 16 / 32, 2: 8 / 32}
# Steps across the canvas between which objects start; the five frames of a 4-interval clip lie on it, too.
RASTER = 8
BACKGROUNDS: tuple[Colour, ...] = ((72, 76, 84), (178, 180, 172))


@dataclass(frozen=True)
class Attributes:
    """What a caption says about a scene."""

    size: str
    colour: str
    shape: str
    motion: Motion

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} moves {', then '.join(self.motion)}"


ALL_ATTRIBUTES = tuple(Attributes(*values) for values in product(SIZES, COLOURS, SHAPES, MOTIONS))

_CAPTION = re.compile(rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) moves (\w+)(?:, then (\w+))?")


def parse_caption(text: str) -> Attributes:
    """The attributes that a caption of this world names.

    Raises:
        UserError: the text is no caption of this world.
    """
    match = _CAPTION.fullmatch(text.strip())
    if match is not None:
        size, colour, shape, *phases = match.groups()
        motion = tuple(phase for phase in phases if phase is not None)
        if motion in MOTIONS:
            return Attributes(size, colour, shape, motion)
    raise UserError(
        f"The caption {text!r} does not describe a clip of the shapes world. Such captions read "
        f"{ALL_ATTRIBUTES[0].caption!r} or {ALL_ATTRIBUTES[-1].caption!r}; sizes: {', '.join(SIZES)}; "
        f"colours: {', '.join(COLOURS)}; shapes: {', '.join(SHAPES)}; directions: {', '.join(DIRECTIONS)}."
    )


@dataclass(frozen=True)
class Scene:
    """One clip of the world.

    Attributes:
        attributes: what the caption says.
        duration: seconds; the motion fills them, each phase an equal part.
        start: (x, y) of the shape's centroid at time 0.
        travel: the way of each phase.
        background: RGB.
    """

    attributes: Attributes
    duration: float
    start: Point
    travel: float
    background: Colour

    @property
    def caption(self) -> str:
        return self.attributes.caption

    def position(self, times: ArrayLike, unit: int) -> NDArray[np.float64]:
        """The centroid in pixels, (..., 2) as (x, y), at `times` (...) in seconds; `unit` is the shorter side."""
        progress = np.asarray(times, dtype=np.float64) / self.duration
        offset = self.travel * motion_path(self.attributes.motion, progress)
        centre: NDArray[np.float64] = (np.asarray(self.start) + offset) * unit
        return centre

    def render(self, times: ArrayLike, height: int, width: int) -> NDArray[np.uint8]:
        """Frames uint8 (T, height, width, 3) at `times` (T,) in seconds."""
        unit = min(height, width)
        centres = self.position(times, unit)
        background = np.asarray(self.background, dtype=np.float32)
        colour = np.asarray(COLOURS[self.attributes.colour], dtype=np.float32)
        alpha = coverage(self.attributes.shape, RADII[self.attributes.size] * unit, centres, height, width)
        frames: NDArray[np.float32] = alpha[..., None] * (colour - background)
        frames += background + np.float32(0.5)
        return frames.astype(np.uint8)


def motion_path(motion: Motion, progress: ArrayLike) -> NDArray[np.float64]:
    """The way gone (..., 2) after a share `progress` (...) of the clip, where each phase has length 1."""
    steps = np.asarray([DIRECTIONS[phase] for phase in motion])
    phase_progress = np.asarray(progress)[..., None] * len(motion) - np.arange(len(motion))
    path: NDArray[np.float64] = np.clip(phase_progress, 0, 1) @ steps
    return path


def coverage(shape: str, radius: float, centres: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """The share of each pixel that a shape covers, float32 (T, height, width).

    Args:
        shape: one of `SHAPES`.
        radius: half the width of the bounding box, in pixels.
        centres: centroids (T, 2) as (x, y), in pixels.
        height: of the canvas, in pixels.
        width: the same.
    """
    columns, rows = (np.arange(side, dtype=np.float32) + np.float32(0.5) for side in (width, height))
    across, down = centres.astype(np.float32).T
    x, y = (columns - across[:, None])[:, None, :], (rows - down[:, None])[:, :, None]
    if shape == "circle":
        return _inside(np.sqrt(x * x + y * y) - np.float32(radius))
    if shape == "square":
        return _inside(abs(x) - radius) * _inside(abs(y) - radius)
    if shape == "cross":
        arm = radius / 3
        wide, narrow = _inside(abs(x) - radius), _inside(abs(x) - arm)
        tall, flat = _inside(abs(y) - radius), _inside(abs(y) - arm)
        # Two bars less the square where they meet, which lies in both.
        return wide * flat + narrow * (tall - flat)
    assert shape == "triangle"
    # As wide as high, apex up: height 2 * radius, of which two thirds lie above the centroid.
    slope = np.float32(1 / np.sqrt(5))
    sides = (2 * abs(x) - y - np.float32(radius * 4 / 3)) * slope
    return _inside(sides) * _inside(y - radius * 2 / 3)


def _inside(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixel coverage by the signed distance (in pixels) from its middle to an edge, negative inside."""
    share: NDArray[np.float32] = np.clip(np.float32(0.5) - distance.astype(np.float32, copy=False), 0, 1)
    return share


def extent(shape: str, radius: float) -> tuple[Point, Point]:
    """How far a shape reaches from its centroid: (left, right) and (up, down)."""
    up, down = (radius * 4 / 3, radius * 2 / 3) if shape == "triangle" else (radius, radius)
    return (radius, radius), (up, down)


def canvas(height: int, width: int) -> Point:
    """Width and height of a canvas as lengths of this world."""
    unit = min(height, width)
    return width / unit, height / unit


def sample_scene(
    rng: np.random.Generator,
    attributes: Attributes,
    duration: float,
    raster: int = RASTER,
    size: Point = (1.0, 1.0),
) -> Scene:
    """A scene with these attributes: start and background at random, the shape always inside.

    Args:
        rng: of the start and the background.
        attributes: what the caption will say.
        duration: seconds.
        raster: the middle of the shape's bounding box starts at a multiple of 1 / raster. A
            coarse raster is easy to learn: at 8, the key frames at 32 pixels show each shape in one alignment
            to the grid of 4x4-pixel tokens; at 32, in sixteen.
        size: width and height of the canvas, see `canvas`.
    """
    travel = TRAVEL[len(attributes.motion)]
    corners = travel * motion_path(attributes.motion, np.linspace(0, 1, len(attributes.motion) + 1))
    reach = extent(attributes.shape, RADII[attributes.size])
    start = []
    for side, (before, after), way in zip(size, reach, corners.T, strict=True):
        half = (before + after) / 2
        first, last = math.ceil((half - way.min()) * raster), math.floor((side - half - way.max()) * raster)
        start.append(float(rng.integers(first, last + 1) / raster + (before - after) / 2))
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    return Scene(attributes, duration, (start[0], start[1]), travel, background)
