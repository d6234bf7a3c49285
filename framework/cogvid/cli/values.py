"""Values of options that several commands take."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.interfaces.grid import Grid


class StageName(StrEnum):
    """A stage of the video model."""

    sequential = "sequential"
    interpolation = "interpolation"


def parse_grid(text: str) -> Grid:
    """`5x20x20` as a grid.

    Raises:
        UserError: it is not three positive numbers.
    """
    from cogvid.interfaces.grid import Grid

    try:
        frames, height, width = map(int, text.lower().split("x"))
        return Grid(frames, height, width)
    except ValueError as error:
        raise UserError(f"--grid {text}: write frames x rows x columns of tokens, such as 5x20x20.") from error


def parse_place(text: str) -> tuple[int, ...]:
    """`2,10,10` as numbers.

    Raises:
        UserError: a part is no whole number.
    """
    try:
        return tuple(map(int, text.split(",")))
    except ValueError as error:
        raise UserError(f"--token {text}: write frame,row,column in whole numbers, such as 2,10,10.") from error
