"""Rotary positions over (frame, row, column), for queries and keys of the plus channel before its backend sees them."""

from __future__ import annotations

import torch
from torch import Tensor

from cogvid.interfaces.grid import Position

# Wavelengths run from 2 pi to 2 pi times this: grids are at most a few dozen tokens wide.
_LONGEST = 100.0


def rotation(position: Position, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (..., S, head_size / 2): a quarter of them for time, the rest for rows and columns.

    Args:
        position: integer tensors (..., S).
        head_size: even.
    """
    pairs = head_size // 2
    of_frame = pairs // 4
    of_row = (pairs - of_frame) // 2
    angles = []
    for axis, count in zip(position, (of_frame, of_row, pairs - of_frame - of_row), strict=True):
        speed = _LONGEST ** -(torch.arange(count, device=axis.device) / max(count, 1))
        angles.append(axis[..., None] * speed)
    angle = torch.cat(angles, dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor], text: int) -> Tensor:
    """Turn pairs of channels of the frame slots; the first `text` slots of (B, H, text + S, K) stay."""
    cos, sin = (a.to(x.dtype) for a in angles)
    first, second = x[:, :, text:].chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([x[:, :, :text], turned], dim=2) if text else turned
