"""The size of a picture as a configuration says it: one number for a square, or `[height, width]`."""

from __future__ import annotations

from typing import Any

from cogvid.config.ranges import Allowed


def sides(allowed: Allowed) -> Allowed:
    """Sizes whose sides are whole numbers that are allowed. The type of such a field is Any: OmegaConf has none for
    a number or a list.

    Args:
        allowed: of each side, in pixels.
    """

    def test(size: Any) -> bool:
        given = size if isinstance(size, list) else [size, size]
        return len(given) == 2 and all(type(side) is int and allowed.test(side) for side in given)

    words = f"a number of pixels for both sides, or a list [height, width], each {allowed.words}"
    return Allowed(words, test, none=False)


def height_and_width(size: Any) -> tuple[int, int]:
    """Of a size that `sides` allows."""
    height, width = size if isinstance(size, list) else (size, size)
    return height, width
