"""Clips for metrics to be held to: captioned squares that move, and what no metric should take for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

# As `shapes` has them, so that metrics which read its captions can read these.
_COLOURS = {"red": (225, 30, 30), "green": (30, 185, 45), "blue": (35, 50, 225), "yellow": (240, 225, 30)}
_DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
_BACKGROUND = (72, 76, 84)
# Shares of a side: of a square, and of its way.
_SQUARE, _WAY = 0.3, 0.5


@dataclass(frozen=True)
class Clips:
    """Videos with their captions.

    Attributes:
        videos: uint8 (B, F, 3, height, width).
        captions: B texts.
    """

    videos: Tensor
    captions: tuple[str, ...]

    @classmethod
    def squares(cls, count: int, frames: int, side: int, seed: int) -> Clips:
        """Squares in several colours that move in several directions from random places."""
        draw = torch.Generator().manual_seed(seed)
        looks = [*product(_COLOURS, _DIRECTIONS)]
        chosen = [looks[place % len(looks)] for place in torch.randperm(max(count, len(looks)), generator=draw)[:count]]
        videos = torch.tensor(_BACKGROUND, dtype=torch.uint8).view(3, 1, 1).repeat(count, frames, 1, side, side)
        size, way = round(_SQUARE * side), round(_WAY * side)
        free = side - size
        for video, (colour, direction) in zip(videos, chosen, strict=True):
            start = []
            for step in _DIRECTIONS[direction]:
                low, high = (way, free) if step < 0 else (0, free - way if step else free)
                start.append(int(torch.randint(low, high + 1, (), generator=draw)))
            for number, frame in enumerate(video):
                moved = way * number / max(frames - 1, 1)
                row, column = (round(s + moved * step) for s, step in zip(start, _DIRECTIONS[direction], strict=True))
                frame[:, row : row + size, column : column + size] = torch.tensor(_COLOURS[colour])[:, None, None]
        return cls(videos, tuple(f"a big {colour} square moves {direction}" for colour, direction in chosen))

    def __len__(self) -> int:
        return len(self.captions)

    def pick(self, places: Sequence[int]) -> Clips:
        """Some of them, in this order."""
        return Clips(self.videos[[*places]], tuple(self.captions[place] for place in places))

    def part(self, first: int, last: int) -> Clips:
        """Those from one place to before another."""
        return Clips(self.videos[first:last], self.captions[first:last])

    def shown_as(self, videos: Tensor) -> Clips:
        """Other videos for the captions."""
        return Clips(videos, self.captions)

    def noisy(self, level: float) -> Clips:
        """The same with normal noise of a deviation of so many grey levels."""
        noise = level * torch.randn(self.videos.shape, generator=torch.Generator().manual_seed(0))
        return self.shown_as((self.videos + noise).round().clamp(0, 255).to(torch.uint8))

    def spoilt(self) -> dict[str, Clips]:
        """Black videos, and those of which each pixel is drawn by itself."""
        draw = torch.Generator().manual_seed(0)
        snow = torch.randint(256, self.videos.shape, dtype=torch.uint8, generator=draw)
        return {"black": self.shown_as(torch.zeros_like(self.videos)), "snow": self.shown_as(snow)}


def no_videos(clips: Clips) -> dict[str, Tensor]:
    """What is in no form of videos, by what is wrong with it."""
    floats = clips.videos.float() / 255
    return {
        "floats": floats,
        "NaN": torch.full_like(floats, float("nan")),
        "channels last": clips.videos.movedim(2, -1),
        "channels first": clips.videos.transpose(1, 2),
        "grey": clips.videos[:, :, :1],
        "a single video": clips.videos[0],
    }
