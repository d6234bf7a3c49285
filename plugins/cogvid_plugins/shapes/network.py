"""The 3D convolutional network that reads clips of the shapes world: what they show, and how they run in time.

Shapes: B videos of F frames, pixels (B, 3, F, height, width) in 0..255.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogvid_plugins.shapes.world import COLOURS, MOTIONS, SHAPES, SIZES

PIXELS = 32
CONTENT = 48
TIME_BINS = 4
PATH_POINTS = 5
CLASSES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "motion": MOTIONS}
# What may be wrong with a clip's time, each a corruption of that name; how far is learned beside, and how much of its
# way the object does not go.
FAULTS = ("none", "shuffled", "frozen", "held", "cross-faded", "jittered")
DEGREES = (*FAULTS[1:], "way")
FEATURES = CONTENT + len(DEGREES)
# Degrees differ by a few hundredths among good clips and by one or two from these to faulty ones. They are features in
# this unit, in which a fault outweighs what content differs by, and a faint one does not.
DEGREE_UNIT = 0.25


class Shapes3d(nn.Module):
    """Features and class scores of clips of any length: two streams side by side, each with features of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.content, self.time = ContentStream(), TimeStream()
        self.scores = nn.ModuleDict({name: nn.Linear(CONTENT, len(values)) for name, values in CLASSES.items()})
        # Trained beside the classes, so that features also tell apart what captions do not.
        self.layout = nn.Linear(CONTENT, 2 * PATH_POINTS + 3)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features of content (B, 48) and of time (B, 6), the shorter side of the pixels 32.

        It was trained on 32x32.
        """
        colourful = with_colourfulness(pixels)
        return self.content(colourful), self.time(colourful)[0] / DEGREE_UNIT


class ContentStream(nn.Module):
    """What is where, in four parts of the clip.

    Pooling over a frame keeps each channel's maximum (what is there), mean, and first moments in x and y
    (where, in halves of the shorter side from the middle); pooling over time keeps four parts in their order.
    Padding repeats the first and last frame, so that one frame reads as a clip that stands still.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(4, 24, (1, 4, 4), (1, 2, 2), (0, 1, 1)),
            nn.BatchNorm3d(24),
            nn.ReLU(),
            nn.Conv3d(24, 48, 3, (1, 2, 2), 1, padding_mode="replicate"),
            nn.BatchNorm3d(48),
            nn.ReLU(),
            nn.Conv3d(48, 64, (1, 3, 3), 1, (0, 1, 1)),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )
        self.sequence = nn.Sequential(
            nn.Conv1d(4 * 64, 128, 3, padding=1, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv1d(128, 128, 1),
            nn.ReLU(),
        )
        self.features = nn.Linear(TIME_BINS * 128, CONTENT)

    def forward(self, colourful: Tensor) -> Tensor:
        """Features (B, 48) of pixels with their colourfulness (B, 4, F, height, width)."""
        maps = self.convolutions(colourful)
        down, across = places(maps)
        pooled = (
            maps.amax((3, 4)),
            maps.mean((3, 4)),
            (maps * across).mean((3, 4)),
            (maps.mT * down).mean((3, 4)),
        )
        sequence = self.sequence(torch.cat(pooled, dim=1))
        features: Tensor = self.features(F.adaptive_avg_pool1d(sequence, TIME_BINS).flatten(1))
        return features


class TimeStream(nn.Module):
    """How a clip runs from frame to frame, from first and second differences in time at every frame.

    Between frames of a steady motion, the object's middle has one velocity and pictures of it differ alike. What is
    held stands and leaps; what is mixed of two frames has no second difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(12, 16, (1, 4, 4), (1, 2, 2), (0, 1, 1)),
            nn.BatchNorm3d(16),
            nn.ReLU(),
            nn.Conv3d(16, 24, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
            nn.BatchNorm3d(24),
            nn.ReLU(),
        )
        self.sequence = nn.Sequential(
            nn.Conv1d(2 * 24 + 10 + 8, 96, 3, padding=1, padding_mode="replicate"),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Conv1d(96, 96, 3, padding=1, padding_mode="replicate"),
            nn.ReLU(),
        )
        self.summary = nn.Sequential(nn.Linear((TIME_BINS + 2) * 96, 96), nn.ReLU())
        self.degrees = nn.Linear(96, len(DEGREES))
        # Trained beside: kinds are told apart sooner than degrees are.
        self.faults = nn.Linear(96, len(FAULTS))

    def forward(self, colourful: Tensor) -> tuple[Tensor, Tensor]:
        """Degrees (B, 6) and fault scores (B, 6) of pixels with their colourfulness (B, 4, F, height, width)."""
        changes = differences(colourful)
        maps = self.convolutions(torch.cat([colourful, *changes], dim=1))
        middle = middles(colourful[:, 3])
        steps = differences(middle[:, :2])
        # Pixels that do not change count as a hundredth of one that does.
        energies = torch.cat([(change.square().mean((3, 4)) + 2e-3).log() for change in changes], dim=1)
        frames = torch.cat(
            [maps.amax((3, 4)), maps.mean((3, 4)), middle, *(8 * step for step in steps), speeds(steps), energies],
            dim=1,
        )
        sequence = self.sequence(frames)
        pooled = F.adaptive_avg_pool1d(sequence, TIME_BINS).flatten(1), sequence.amax(2), sequence.std(2, correction=0)
        summary = self.summary(torch.cat(pooled, dim=1))
        return self.degrees(summary), self.faults(summary)


def with_colourfulness(pixels: Tensor) -> Tensor:
    """Pixels and their colourfulness (B, 4, F, height, width), within -1..1."""
    # Objects are colourful, backgrounds are not.
    colourfulness = pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
    return torch.cat([pixels, colourfulness], dim=1) / 127.5 - 1


def differences(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and second differences in time of values (B, channels, F, ...); those at the ends are repeated."""
    frames = values.shape[2]
    if frames < 3:
        zero = torch.zeros_like(values)
        return zero, zero
    first = values.diff(dim=2)
    second = first.diff(dim=2)
    return torch.cat([first[:, :, :1], first], dim=2), torch.cat([second[:, :, :1], second, second[:, :, -1:]], dim=2)


def speeds(steps: tuple[Tensor, Tensor]) -> Tensor:
    """The lengths (B, 2, F) of steps (B, 2, F) and of their changes, in thirty-seconds of a side, roughly."""
    return torch.stack([16 * (step.square().sum(1) + 1e-6).sqrt() for step in steps], dim=1)


def middles(colourfulness: Tensor) -> Tensor:
    """The middle (x, y) and the spread (x, y) of what is colourful (B, F, height, width), (B, 4, F)."""
    down, across = places(colourfulness)
    # What grey backgrounds have of it by noise is left out.
    weights = (colourfulness + 0.6).clamp_min(0) + 1e-6
    weights = weights / weights.sum((2, 3), keepdim=True)
    columns, rows = weights.sum(2), weights.sum(3)
    x, y = (columns * across).sum(2), (rows * down).sum(2)
    spread_x = (columns * (across - x[..., None]).square()).sum(2)
    spread_y = (rows * (down - y[..., None]).square()).sum(2)
    return torch.stack([x, y, 8 * spread_x, 8 * spread_y], dim=1)


def places(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of the cells of maps (..., height, width) down and across, in halves of the shorter side from the middle."""
    shorter = min(maps.shape[-2:])
    ends = [(side - 1) / (shorter - 1) for side in maps.shape[-2:]]
    down, across = (
        torch.linspace(-end, end, side, device=maps.device) for end, side in zip(ends, maps.shape[-2:], strict=True)
    )
    return down, across
