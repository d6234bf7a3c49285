"""What the pictures of frames have in common: sizes, colours, and the names and errors of their files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes

from cogvid.errors import UserError

ACROSS = 11  # frames side by side
SIDE = 1.15  # inches of a frame
SUFFIXES = (".png", ".svg", ".pdf")
GREY, PALE, BLUE, ORANGE, YELLOW = "#e9eaec", "#c3d3ee", "#2f6fde", "#e4753b", "#f5cd6b"


def check_suffix(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raises UserError for a name that says no known format."""
    if path.suffix.lower() not in suffixes:
        raise UserError(f"--out {path}: a picture's name ends in {', '.join(suffixes)}.")


def frame_axes(axes: Sequence[Axes], given: Sequence[bool]) -> Iterator[tuple[int, Axes]]:
    """The axes of each frame, named; those left over show nothing."""
    for number, axis in enumerate(axes):
        if number >= len(given):
            axis.set_axis_off()
            continue
        axis.set_title(f"frame {number}, given" if given[number] else f"frame {number}", fontsize=7, pad=2)
        axis.set_xticks([])
        axis.set_yticks([])
        yield number, axis


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError if the picture cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write the picture {path}: {error.strerror}. Choose another --out.") from error
