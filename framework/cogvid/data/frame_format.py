"""What frames are made of pictures: their size, and how a picture of other proportions is made to fit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Fit = Literal["crop", "pad", "stretch"]


@dataclass(frozen=True)
class FrameFormat:
    """Frames of one size, and how a picture becomes one.

    * `crop`: the largest piece of the frame's proportions from the middle of the picture fills the frame.
    * `pad`: the whole picture keeps its proportions; what it leaves of the frame is black, as much on both sides, or a
      pixel more at the bottom or on the right.
    * `stretch`: the whole picture fills the frame, whatever becomes of its proportions.

    Attributes:
        height: of a frame, in pixels.
        width: the same.
        fit: how a picture of other proportions is made to fit.
    """

    height: int
    width: int
    fit: Fit = "crop"

    def of(self, image: Tensor, aspect: Fraction = Fraction(1)) -> Tensor:
        """A picture as a frame, resized with antialiasing; its pixels stay exact where nothing has to be resized.

        Args:
            image: uint8 (3, rows, columns).
            aspect: width of one of its pixels by the pixel's height.

        Returns:
            uint8 (3, height, width), of square pixels.
        """
        if self.fit == "stretch":
            return resized(image, self.height, self.width)
        return self._padded(image, aspect) if self.fit == "pad" else self._cropped(image, aspect)

    def _cropped(self, image: Tensor, aspect: Fraction) -> Tensor:
        rows, columns = image.shape[1:]
        across = Fraction(self.width, self.height)
        tall = min(Fraction(rows), columns * aspect / across)
        inner = max(round(tall), 1), max(round(tall * across / aspect), 1)
        top, left = _before(rows, inner[0]), _before(columns, inner[1])
        return resized(image[:, top : top + inner[0], left : left + inner[1]], self.height, self.width)

    def _padded(self, image: Tensor, aspect: Fraction) -> Tensor:
        rows, columns = image.shape[1:]
        scale = min(Fraction(self.height, rows), self.width / (columns * aspect))
        picture = resized(image, max(round(rows * scale), 1), max(round(columns * aspect * scale), 1))
        height, width = picture.shape[1:]
        top, left = _before(self.height, height), _before(self.width, width)
        frame = torch.zeros(3, self.height, self.width, dtype=torch.uint8)
        frame[:, top : top + height, left : left + width] = picture
        return frame


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """A picture uint8 (3, rows, columns) as (3, height, width), antialiased; itself where it has that size."""
    if image.shape[1:] == (height, width):
        return image
    return functional.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]


def _before(outer: int, inner: int) -> int:
    """Whole pixels of the outer length before an inner one in its middle."""
    return (outer - inner) // 2
