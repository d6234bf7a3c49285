"""What frames are made of pictures: their size, and how a picture of other proportions is made to fit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Fit = Literal["crop", "pad", "stretch"]
Picture = NDArray[np.uint8]
# How a picture gets another size, for the records of what is scored.
RESIZE = "bilinear, antialiased"


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

    def of(self, image: Picture, aspect: Fraction = Fraction(1)) -> Picture:
        """A picture as a frame, resized with antialiasing; its pixels stay exact where nothing has to be resized.

        Args:
            image: uint8 (rows, columns, 3).
            aspect: width of one of its pixels by the pixel's height.

        Returns:
            uint8 (height, width, 3), of square pixels.
        """
        if aspect == 1 and image.shape[:2] == (self.height, self.width):  # small frames are many
            return image
        if self.fit == "stretch":
            return resized(image, self.height, self.width)
        return self._padded(image, aspect) if self.fit == "pad" else self._cropped(image, aspect)

    def _cropped(self, image: Picture, aspect: Fraction) -> Picture:
        rows, columns = image.shape[:2]
        across = Fraction(self.width, self.height)
        tall = min(Fraction(rows), columns * aspect / across)
        inner = max(round(tall), 1), max(round(tall * across / aspect), 1)
        top, left = _before(rows, inner[0]), _before(columns, inner[1])
        return resized(image[top : top + inner[0], left : left + inner[1]], self.height, self.width)

    def _padded(self, image: Picture, aspect: Fraction) -> Picture:
        rows, columns = image.shape[:2]
        scale = min(Fraction(self.height, rows), self.width / (columns * aspect))
        picture = resized(image, max(round(rows * scale), 1), max(round(columns * aspect * scale), 1))
        height, width = picture.shape[:2]
        top, left = _before(self.height, height), _before(self.width, width)
        frame = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        frame[top : top + height, left : left + width] = picture
        return frame


def resized(image: Picture, height: int, width: int) -> Picture:
    """A picture uint8 (rows, columns, 3) as (height, width, 3), antialiased; itself where it has that size."""
    if image.shape[:2] == (height, width):
        return image
    planes = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    result = functional.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return result[0].permute(1, 2, 0).numpy()


def _before(outer: int, inner: int) -> int:
    """Whole pixels of the outer length before an inner one in its middle."""
    return (outer - inner) // 2
