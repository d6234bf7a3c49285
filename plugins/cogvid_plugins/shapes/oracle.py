"""Metric `shapes_oracle`: reads off the pixels whether a clip of the shapes world shows its caption.

How a frame is measured. The background is the median of the frame. A pixel lies somewhere on the way from the
background to an object colour, the one whose straight line passes nearest; up to a quarter of the way it is
background, from three quarters on object, between them in part. So the soft edge of a blurred object weighs
what it covers, while a faint ghost weighs nothing. The colour with the most weight is the object's. No object
is present where that is less than half of the smallest shape, or where too much of another colour stands
beside it. The centre is the centroid of the weights. Shape and size are those of the nearest of the eight
rendered templates at that centre, or none where even that one is far off, as it is for a blot, for two
objects, and for the evenly mixed double image of a cross-fade.

How a motion is measured. Each of the sixteen motions is an ideal path with a free start and scale, fitted to
the centres; the nearest wins. None is right where the object is missing in a frame, goes less than half of
the way that motions of this world go, or where even the nearest path leaves more of the movement open than it
explains.
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
from cogvid.config.ranges import at_least, option
from cogvid.interfaces.metric import Meaning, VideoMetric, check_videos
from cogvid_plugins.shapes.world import (
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
SCORES = ("colour", "shape", "size", "motion", "all", "frame_colour", "frame_shape", "present")
# Changes whenever the same video may get another value.
VERSION = 1
# Of the area of the smallest shape (a small triangle): less is no object.
LEAST_MASS = 0.5
# Of the weight of all colours: less in one colour is no object.
LEAST_PURITY = 0.7
# Squared error over squared template: more is no shape.
MOST_MISFIT = 0.2
# Of the squared distances from the mean centre: less explained is no motion.
LEAST_FIT = 0.5
# Of the way of a phase in this world: less is no motion either.
LEAST_TRAVEL = 0.5


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
        present: NDArray[np.bool_] = self.colour != NONE
        return present


def measure(videos: NDArray[np.uint8]) -> Measured:
    """Measure each frame for itself.

    Args:
        videos: uint8 (B, F, 3, height, width).
    """
    batch, frames = videos.shape[:2]
    images = videos.reshape(-1, *videos.shape[2:]).transpose(0, 2, 3, 1).astype(np.float32)
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
    """The object's colour (N,), and the weight of each pixel in it (N, height, width)."""
    background = np.median(images, axis=(1, 2), keepdims=True)
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
    smallest = 2 * (min(RADII.values()) * min(images.shape[1:3])) ** 2
    present = (most >= LEAST_MASS * smallest) & (most >= LEAST_PURITY * mass.sum(0))
    return np.where(present, colour, NONE), weights[colour, np.arange(len(images))]


def _weight(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """From the share of the way between background and colour: 0 up to a quarter, 1 from three quarters."""
    weight: NDArray[np.float32] = np.clip(2 * share - np.float32(0.5), 0, 1)
    return weight


def _centroid(weights: NDArray[np.float32]) -> Floats:
    """(N, 2) as (x, y) in pixels; the middle of the canvas where nothing has weight."""
    profiles = weights.sum(1) + 1e-9, weights.sum(2) + 1e-9
    means = [profile @ (np.arange(profile.shape[1]) + 0.5) / profile.sum(1) for profile in profiles]
    return np.stack(means, axis=-1)


def _match(weights: NDArray[np.float32], centre: Floats) -> tuple[Integers, Integers]:
    """Shape and size (N,) of the nearest template at the centre, `NONE` where it is far off."""
    height, width = weights.shape[1:]
    unit = min(height, width)
    errors, misfits = [], []
    for size, shape in product(SIZES, SHAPES):
        template = _weight(coverage(shape, RADII[size] * unit, centre, height, width))
        error = ((weights - template) ** 2).sum((1, 2))
        errors.append(error)
        misfits.append(error / np.maximum((template**2).sum((1, 2)), 1e-9))
    best = np.argmin(errors, axis=0)
    fits = np.take_along_axis(np.stack(misfits), best[None], axis=0)[0] <= MOST_MISFIT
    size_index, shape_index = np.divmod(best, len(SHAPES))
    return np.where(fits, shape_index, NONE), np.where(fits, size_index, NONE)


def classify_motion(centres: Floats, unit: int) -> Integers:
    """Which motion each video shows.

    Args:
        centres: (B, F, 2) as (x, y) in pixels at equally spaced times from the clip's start to its end; NaN
            where there is no object.
        unit: the canvas's shorter side, in pixels.

    Returns:
        (B,) indices into `MOTIONS`, `NONE` where the centres follow none of them.
    """
    paths = np.stack([motion_path(motion, np.linspace(0, 1, centres.shape[1])) for motion in MOTIONS])
    paths -= paths.mean(1, keepdims=True)
    # Too few frames to tell there and back from rest: no scale then.
    lengths = np.maximum((paths**2).sum((1, 2)), 1e-9)
    moved = centres - centres.mean(1, keepdims=True)
    scale = np.einsum("bfx,mfx->bm", moved, paths) / lengths
    explained = np.maximum(scale, 0) ** 2 * lengths
    best = explained.argmax(1)
    shortest = np.asarray([LEAST_TRAVEL * TRAVEL[len(motion)] * unit for motion in MOTIONS])
    rows = np.arange(len(centres))
    # Comparisons with NaN are false: a video without an object in some frame follows nothing.
    enough = scale[rows, best] >= shortest[best]
    fits = explained[rows, best] >= LEAST_FIT * (moved**2).sum((1, 2))
    return np.where(enough & fits, best, NONE)


def path_error(centres: Floats, motion: Motion, key_frames: int) -> float:
    """How far the frames between the key frames lie from where the motion has the object at their time.

    The path is the caption's motion, uniform in each phase, with start and length of each phase fitted to the
    centres in the key frames by least squares. A frame between them without an object counts as if the object
    stood at the farther of its two key frames, so losing the object is never better than standing still.

    Args:
        centres: (F, 2) as (x, y) in pixels, the key frames evenly among them; NaN where there is no object.
        motion: one of `MOTIONS`.
        key_frames: how many of the F frames are key frames.

    Returns:
        The mean distance in pixels; NaN where a key frame has no object or no frames lie between key frames.
    """
    gaps = key_frames - 1
    step, rest = divmod(len(centres) - 1, gaps)
    keys = centres[::step] if step else centres
    if rest or step < 2 or np.isnan(keys).any():
        return float("nan")
    progress = np.linspace(0, 1, len(centres))
    # Columns: the two coordinates of the start, then the length of each phase.
    columns = [np.broadcast_to(axis, centres.shape) for axis in np.eye(2)]
    for phase, direction in enumerate(motion):
        columns.append(motion_path((direction,), progress * len(motion) - phase))
    design = np.stack(columns, axis=-1)
    solution, *_ = np.linalg.lstsq(design[::step].reshape(-1, len(columns)), keys.reshape(-1), rcond=None)
    path = design @ solution
    distance = np.linalg.norm(centres - path, axis=-1)
    gap = np.minimum(np.arange(len(centres)) // step, gaps - 1)
    standing = np.maximum(np.linalg.norm(keys[gap] - path, axis=-1), np.linalg.norm(keys[gap + 1] - path, axis=-1))
    distance = np.where(np.isnan(distance), standing, distance)
    return float(distance[np.arange(len(centres)) % step != 0].mean())


class ShapesOracle(VideoMetric):
    """Accuracies against the captions, over the videos that are scored; the real videos are not looked at.

    `colour`, `shape`, `size`: the share of videos that have an object in every frame and the caption's
    value in more than half of them. `motion`: the share that move as the caption says. `all`: the share
    that are right in all four. `frame_colour`, `frame_shape`: the share of frames with the caption's value;
    `present`: the share with an object. `path_error`: pixels by which the frames between the key frames
    miss the uniform motion that the key frames span, over the videos whose key frames move as the caption
    says (the others say nothing about interpolation); NaN where there are none, or no frames between key
    frames.
    """

    key_frames = True

    @dataclass
    class Config:
        key_frames: int = option(5, at_least(2))  # of each video, evenly spaced from the first frame to the last

    hits: Tensor
    videos: Tensor
    path_errors: Tensor
    paths: Tensor

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.add_state("hits", torch.zeros(len(SCORES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("videos", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("path_errors", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("paths", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        """Measure the videos (B, F, 3, height, width) if they are the ones to be scored.

        Raises:
            UserError: these are no such videos, or a caption is not of the shapes world.
        """
        check_videos(videos)
        if real:
            return
        wanted = [parse_caption(caption) for caption in captions]
        measured = measure(videos.cpu().numpy())
        unit, frames = min(videos.shape[3:]), videos.shape[1]
        self.hits += torch.from_numpy(_score(measured, wanted, unit).sum(0)).to(self.hits)
        self.videos += len(wanted)
        step = max(1, (frames - 1) // (self.config.key_frames - 1))
        spanned = classify_motion(measured.centre[:, ::step], unit)
        for centres, index, attributes in zip(measured.centre, spanned, wanted, strict=True):
            if index != NONE and MOTIONS[index] == attributes.motion:
                error = path_error(centres, attributes.motion, self.config.key_frames)
                if not np.isnan(error):
                    self.path_errors += error
                    self.paths += 1

    def compute(self) -> dict[str, Tensor]:
        """The scores by name; see the class."""
        scores = dict(zip(SCORES, self.hits / self.videos, strict=True))
        return {**scores, "path_error": self.path_errors / self.paths}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        videos = "Share of videos whose {} is that of their caption, measured in the pixels."
        frames = "Share of frames {}."
        return {
            "all": Meaning(
                "all right", videos.format("colour, shape, size and motion"), "higher", "share", headline=True
            ),
            "motion": Meaning("motion", videos.format("motion"), "higher", "share", headline=True),
            "path_error": Meaning(
                "path error",
                "Distance of the frames between the key frames from where the captions' motion has the object.",
                "lower",
                "pixels",
                headline=True,
            ),
            "colour": Meaning("colour", videos.format("colour"), "higher", "share"),
            "shape": Meaning("shape", videos.format("shape"), "higher", "share"),
            "size": Meaning("size", videos.format("size"), "higher", "share"),
            "frame_colour": Meaning("frames' colour", frames.format("with the caption's colour"), "higher", "share"),
            "frame_shape": Meaning("frames' shape", frames.format("with the caption's shape"), "higher", "share"),
            "present": Meaning("object present", frames.format("that show one object"), "higher", "share"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """The version of the measurement and the number of key frames."""
        return {"version": VERSION, "key_frames": self.config.key_frames}


def _score(measured: Measured, wanted: list[Attributes], unit: int) -> Floats:
    """(B, len(SCORES)) in the order of `SCORES`."""
    colours = list(COLOURS)
    colour = measured.colour == np.asarray([[colours.index(attributes.colour)] for attributes in wanted])
    shape = measured.shape == np.asarray([[SHAPES.index(attributes.shape)] for attributes in wanted])
    size = measured.size == np.asarray([[SIZES.index(attributes.size)] for attributes in wanted])
    moves = [MOTIONS.index(attributes.motion) for attributes in wanted]
    always = measured.present.all(1)
    videos = [always & (frames.mean(1) > 0.5) for frames in (colour, shape, size)]
    videos.append(classify_motion(measured.centre, unit) == moves)
    everything = np.all(videos, axis=0)
    shares = [colour.mean(1), shape.mean(1), measured.present.mean(1)]
    return np.stack([*videos, everything, *shares], axis=1).astype(np.float64)


@hookimpl
def register_metrics() -> dict[str, type]:
    """The metric `shapes_oracle`."""
    return {"shapes_oracle": ShapesOracle}
