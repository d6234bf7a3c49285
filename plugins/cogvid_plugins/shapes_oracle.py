"""Metric `shapes_oracle`: reads off the pixels whether a clip of the shapes world shows what its caption says.

How a frame is measured. The background is the median of each row, for backgrounds of this world change from top
to bottom only. A pixel belongs to the object colour whose line from the background it lies nearest to, by the
share of the way it has gone; under a quarter counts as background, over three quarters as object. So antialiased
and slightly blurred edges weigh what they cover, while a faint ghost weighs nothing. The colour with most weight
is the object's. No object is present where that is less than half of the smallest shape, or where too much of
another colour stands beside it. The centre is the centroid of the weights. Shape and size are those of the
nearest of the eight rendered templates at that centre, and none where even that one is far off, as it is for
a blot, for two objects, or for the double image of a cross-fade.

How a motion is measured. Each of the sixteen motions is an ideal path with a free start and scale, fitted to the
centres; the nearest wins. None is right where the object is missing in a frame, goes less than half of the
shortest way of this world, or follows even the nearest path badly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogvid import hookimpl
from cogvid.metrics.base import VideoMetric
from cogvid_plugins.shapes_world import (
    COLOURS,
    MOTIONS,
    RADII,
    SHAPES,
    SIZES,
    TRAVEL,
    Attributes,
    Motion,
    coverage,
    motion_path,
    parse_caption,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

NONE = -1
# Changes whenever the same video may get another value.
VERSION = 1
# Of the area of the smallest shape (a small triangle): less is no object.
SMALLEST_MASS = 0.5
# Of the weight of all colours: less in one colour is no object.
PUREST_SHARE = 0.7
# Squared error over squared template: more is no shape.
WORST_MISFIT = 0.35
# Of the variance of the path: what the motion must explain.
WORST_FIT = 0.8
# Of the shortest way of a phase: less is no motion.
SHORTEST_TRAVEL = 0.5


@dataclass(frozen=True)
class Measured:
    """What frames show; arrays (B, F).

    Attributes:
        colour: index into `COLOURS`, `NONE` where no object is present.
        shape: index into `SHAPES`, `NONE` where the object has none of them.
        size: index into `SIZES`, `NONE` where the shape is.
        centre: (B, F, 2) as (x, y) in pixels, NaN where no object is present.
    """

    colour: Integers
    shape: Integers
    size: Integers
    centre: Floats

    @property
    def present(self) -> NDArray[np.bool_]:
        return self.colour != NONE


def measure(videos: NDArray[np.uint8]) -> Measured:
    """Measure each frame for itself.

    Args:
        videos: uint8 (B, F, 3, pixels, pixels).
    """
    batch, frames, _, pixels, width = videos.shape
    assert pixels == width, videos.shape
    images = videos.reshape(-1, 3, pixels, pixels).transpose(0, 2, 3, 1).astype(np.float32)
    colour, weights = _segment(images)
    centre = _centroid(weights)
    shape, size = _match(weights, centre)
    present = colour != NONE
    return Measured(
        colour.reshape(batch, frames),
        np.where(present, shape, NONE).reshape(batch, frames),
        np.where(present, size, NONE).reshape(batch, frames),
        np.where(present[:, None], centre, np.nan).reshape(batch, frames, 2),
    )


def _segment(images: NDArray[np.float32]) -> tuple[Integers, NDArray[np.float32]]:
    """The object's colour (N,), and the weight of each pixel in it (N, pixels, pixels)."""
    background = np.median(images, axis=2, keepdims=True)
    difference = images - background
    strength = (difference**2).sum(-1)
    palette = np.asarray(list(COLOURS.values()), dtype=np.float32)
    way, error = [], []
    for colour in palette:
        line = colour - background
        length = (line**2).sum(-1)
        share = (difference * line).sum(-1) / length
        way.append(share)
        error.append(strength - np.maximum(share, 0) ** 2 * length)
    nearest = np.argmin(error, axis=0)
    weights = np.stack([_weight(share) * (nearest == index) for index, share in enumerate(way)])
    mass = weights.sum((2, 3))
    colour = mass.argmax(0)
    most = mass.max(0)
    smallest = 2 * (min(RADII.values()) * images.shape[1]) ** 2
    present = (most >= SMALLEST_MASS * smallest) & (most >= PUREST_SHARE * mass.sum(0))
    return np.where(present, colour, NONE), weights[colour, np.arange(len(images))]


def _weight(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the share of the way between background and colour: 0 up to a quarter, 1 from three quarters."""
    weight: NDArray[np.float32] = np.clip(2 * share - np.float32(0.5), 0, 1)
    return weight


def _centroid(weights: NDArray[np.float32]) -> Floats:
    """(N, 2) as (x, y) in pixels; the middle of the canvas where nothing has weight."""
    places = np.arange(weights.shape[-1]) + 0.5
    columns, rows = weights.sum(1) + 1e-9, weights.sum(2) + 1e-9
    return np.stack([columns @ places / columns.sum(1), rows @ places / rows.sum(1)], axis=-1)


def _match(weights: NDArray[np.float32], centre: Floats) -> tuple[Integers, Integers]:
    """Shape and size (N,) of the nearest template at the centre, `NONE` where it is far off."""
    pixels = weights.shape[-1]
    errors, misfits = [], []
    for size, shape in product(SIZES, SHAPES):
        template = _weight(coverage(shape, RADII[size] * pixels, centre, pixels))
        error = ((weights - template) ** 2).sum((1, 2))
        errors.append(error)
        misfits.append(error / np.maximum((template**2).sum((1, 2)), 1e-9))
    best = np.argmin(errors, axis=0)
    fits = np.take_along_axis(np.stack(misfits), best[None], axis=0)[0] <= WORST_MISFIT
    size_index, shape_index = np.divmod(best, len(SHAPES))
    return np.where(fits, shape_index, NONE), np.where(fits, size_index, NONE)


def classify_motion(centres: Floats, pixels: int) -> Integers:
    """Which motion each video shows.

    Args:
        centres: (B, F, 2) as (x, y) in pixels at equally spaced times from the clip's start to its end; NaN
            where there is no object.
        pixels: side of the canvas.

    Returns:
        (B,) indices into `MOTIONS`, `NONE` where the centres follow none of them.
    """
    progress = np.linspace(0, 1, centres.shape[1])
    paths = np.stack([motion_path(motion, progress) for motion in MOTIONS])
    paths -= paths.mean(1, keepdims=True)
    moved = centres - centres.mean(1, keepdims=True)
    scale = np.einsum("bfx,mfx->bm", moved, paths) / (paths**2).sum((1, 2))
    explained = np.maximum(scale, 0) ** 2 * (paths**2).sum((1, 2))
    total = (moved**2).sum((1, 2))
    best = explained.argmax(1)
    shortest = np.asarray([SHORTEST_TRAVEL * TRAVEL[len(motion)][0] * pixels for motion in MOTIONS])
    rows = np.arange(len(centres))
    # Comparisons with NaN are false: a video without an object in some frame follows nothing.
    follows = (scale[rows, best] >= shortest[best]) & (explained[rows, best] >= WORST_FIT * total)
    return np.where(follows, best, NONE)
