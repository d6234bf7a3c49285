"""Clips as pictures for people: enlarged, as an animated GIF, and many on one contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Small videos are shown enlarged by whole factors.
_VIEW = 128
_GAP, _TEXT = 4, 14  # pixels of a contact sheet


def enlarge(video: Tensor) -> Tensor:
    """A video uint8 (F, 3, height, width), enlarged by a whole factor where it is small."""
    factor = max(1, _VIEW // max(video.shape[2:]))
    return video.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def gif(video: Tensor, seconds: float) -> bytes:
    """An animated GIF that repeats for ever.

    Args:
        video: uint8 (F, 3, height, width).
        seconds: from one frame to the next; GIF counts in hundredths.
    """
    first, *others = _images(video)
    buffer = io.BytesIO()
    duration = max(round(seconds * 100), 2) * 10  # milliseconds; players slow down what is faster than 20
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return buffer.getvalue()


def contact_sheet(rows: Sequence[tuple[str, Tensor]]) -> bytes:
    """A PNG with a row for each clip: its caption, and below it its frames side by side.

    Args:
        rows: caption and uint8 (F, 3, height, width), of any size.
    """
    # Of the fonts that are surely there the one with the most alphabets.
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", _TEXT - 2)
    tiles = [[_tile(image) for image in _images(video)] for _, video in rows]
    width = max(sum(tile.width + _GAP for tile in row) for row in tiles) + _GAP
    heights = [_GAP + _TEXT + _GAP + max(tile.height for tile in row) for row in tiles]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for (caption, _), row, height in zip(rows, tiles, heights, strict=True):
        draw.text((_GAP, top + _GAP), _fitted(caption, font, width - 2 * _GAP), "black", font)
        left = _GAP
        for tile in row:
            sheet.paste(tile, (left, top + _GAP + _TEXT + _GAP))
            left += tile.width + _GAP
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _images(video: Tensor) -> list[Image.Image]:
    return [Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in enlarge(video)]


def _tile(image: Image.Image) -> Image.Image:
    image.thumbnail((_VIEW, _VIEW))
    return image


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text on one line, cut where it would be wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
