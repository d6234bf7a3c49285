"""What one token sees of every frame, as a picture file and as letters."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.inspect.figure import ACROSS, BLUE, GREY, ORANGE, PALE, SIDE, check_suffix, frame_axes, writing
from cogvid.inspect.mask import MaskNumbers, Subject
from cogvid.interfaces.grid import Grid, Position
from cogvid.interfaces.mask import causal

_BANDS = 2  # of frames below each other in the terminal


class Seen(IntEnum):
    """How a place stands to the token."""

    later = 0
    outside = 1
    visible = 2
    itself = 3


_WORDS = {
    Seen.itself: "the token itself",
    Seen.visible: "visible",
    Seen.outside: "allowed by the causal order, outside the pattern",
    Seen.later: "not allowed: generated later",
}
_COLOURS = {Seen.later: GREY, Seen.outside: PALE, Seen.visible: BLUE, Seen.itself: ORANGE}
_LETTERS = {Seen.later: " ", Seen.outside: "·", Seen.visible: "█", Seen.itself: "◆"}


def default_token(subject: Subject) -> tuple[int, int, int]:
    """The middle of the last generated frame: frame, row, column."""
    grid = subject.grid
    return max(t for t, given in enumerate(subject.given) if not given), grid.height // 2, grid.width // 2


def check_token(token: tuple[int, ...], grid: Grid) -> tuple[int, int, int]:
    """Raises UserError for a token outside the grid."""
    sides = (grid.frames, grid.height, grid.width)
    if len(token) != 3 or not all(0 <= place < side for place, side in zip(token, sides, strict=True)):
        last = ",".join(str(side - 1) for side in sides)
        said = ",".join(map(str, token))
        raise UserError(f"--token {said}: write frame,row,column, from 0,0,0 to {last} on this grid.")
    return token[0], token[1], token[2]


def seen_by(mask: MaskNumbers, token: tuple[int, int, int]) -> Tensor:
    """A `Seen` for every place of the grid, int64 (F, H, W)."""
    visibility, grid = mask.visibility, mask.visibility.grid
    query = Position(*(torch.tensor(place) for place in token))
    keys = grid.positions()
    allowed = causal(query, keys, grid.width, torch.tensor(visibility.given))
    seen = torch.where(allowed, int(Seen.outside), int(Seen.later))
    seen[visibility.pair(query, keys)] = Seen.visible
    seen[(token[0] * grid.height + token[1]) * grid.width + token[2]] = Seen.itself
    return seen.view(grid.frames, grid.height, grid.width)


def draw(subject: Subject, masks: Sequence[MaskNumbers], token: tuple[int, int, int], path: Path) -> None:
    """Write the picture: for each distinct mask, what the token sees of every frame.

    Raises:
        UserError: the file cannot be written.
    """
    check_suffix(path)
    grid = subject.grid
    across = min(grid.frames, ACROSS)
    down = -(-grid.frames // across)
    width = max(across * SIDE, 5.6)
    height = len(masks) * (down * (SIDE * grid.height / grid.width + 0.25) + 0.3) + 1.1
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": subject.name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{subject.name} on {grid.frames} frames of {grid.height}x{grid.width}, {subject.stage}: "
            f"what token ({', '.join(map(str, token))}) sees",
            fontsize=9,
        )
        parts = figure.subfigures(len(masks), 1, squeeze=False)[:, 0]
        for part, mask in zip(parts, masks, strict=True):
            if len(masks) > 1:
                part.suptitle(mask.title, fontsize=8)
            _draw_frames(part.subplots(down, across, squeeze=False).flat, seen_by(mask, token), subject.given)
        figure.legend(
            handles=[Patch(color=_COLOURS[seen], label=words) for seen, words in _WORDS.items()],
            title="the unpadded text is visible to every token",
            loc="outside lower center",
            ncols=2,
            frameon=False,
        )
        with writing(path):
            figure.savefig(path, dpi=160)


def _draw_frames(axes: Sequence[mpl.axes.Axes], seen: Tensor, given: tuple[bool, ...]) -> None:
    colours = ListedColormap([_COLOURS[each] for each in Seen])
    for number, axis in frame_axes(axes, given):
        axis.imshow(seen[number].numpy(), cmap=colours, vmin=0, vmax=len(Seen) - 1, interpolation="nearest")


def letters(seen: Tensor, columns: int) -> str:
    """The picture in letters, the frames that have something visible side by side; empty where they do not fit.

    Args:
        seen: see `seen_by`.
        columns: letters that fit side by side.
    """
    shown = [frame for frame in range(len(seen)) if (seen[frame] >= Seen.visible).any()]
    width = seen.shape[2]
    across = (columns + 2) // (width + 2)
    if not across or len(shown) > _BANDS * across:
        return ""
    bands = []
    for start in range(0, len(shown), across):
        band = shown[start : start + across]
        head = "  ".join(f"{f'frame {number}':<{width}.{width}}" for number in band)
        rows = seen[band].transpose(0, 1).tolist()
        lines = ["  ".join("".join(_LETTERS[Seen(place)] for place in part) for part in row) for row in rows]
        bands.append("\n".join([head, *lines]))
    return "\n\n".join(bands)


def key_of_letters() -> str:
    """What the letters stand for."""
    return ", ".join(f"{_LETTERS[seen]} {words}" for seen, words in _WORDS.items() if seen is not Seen.later)
