"""Slots in motion, as an animated GIF: which are done, run or wait, step after step of a decode schedule."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cogvid.inspect.figure import ACROSS, BLUE, GREY, ORANGE, PALE, YELLOW, check_suffix, writing
from cogvid.inspect.schedule import ScheduleNumbers
from cogvid.interfaces.grid import Grid

PICTURES = 120  # at most; more steps share pictures
_SIDE = 120  # pixels of a frame, about
_GAP, _LINE = 8, 16  # pixels between frames, and of a line of text
_NARROWEST, _KEY = 480, 80  # pixels of a picture, so that its title fits, and of a state in the key
_SECONDS, _LAST = 0.08, 2.0  # of a picture, and of the last one


class State(IntEnum):
    """How a slot stands to the steps of a picture; also its colour's number in the palette.

    What runs is final with these steps; what is guessed is computed, too, and will be again.
    """

    waiting = 0
    given = 1
    done = 2
    running = 3
    guessed = 4


_PAPER, _INK = 5, 6
_PALETTE = [GREY, PALE, BLUE, ORANGE, YELLOW, "#ffffff", "#22252b"]


def pictured_steps(steps: int) -> list[range]:
    """The steps that each picture shows as running: all steps, each once, in at most `PICTURES` equal parts."""
    pictures = min(steps, PICTURES)
    edges = [number * steps // pictures for number in range(pictures + 1)]
    return [range(*ends) for ends in pairwise(edges)]


def states(schedule: Tensor, running: range) -> Tensor:
    """A `State` of each slot, uint8 of the schedule's shape."""
    found = torch.full_like(schedule, int(State.waiting), dtype=torch.uint8)
    found[schedule < running.stop] = State.running
    found[schedule < running.start] = State.done
    found[schedule < 0] = State.given
    return found


def said_steps(running: range, one: str, several: str) -> str:
    """The steps of a picture in words."""
    return f"{one} {running[0]:,}" if len(running) == 1 else f"{several} {running[0]:,} to {running[-1]:,}"


def animate_schedule(numbers: ScheduleNumbers, path: Path) -> None:
    """Write the animation.

    Raises:
        UserError: the file cannot be written.
    """
    subject, grid = numbers.subject, numbers.subject.grid
    title = f"{subject.name} on {grid.frames}x{grid.height}x{grid.width}, {subject.stage}"
    pictures = [
        (f"{title}: {said_steps(running, 'step', 'steps')}, of {numbers.steps:,}", states(numbers.schedule, running))
        for running in pictured_steps(numbers.steps)
    ]
    key = [state for state in State if state is not State.guessed]
    write_animation(pictures, grid, range(grid.frames), key, path)


def write_animation(
    pictures: Sequence[tuple[str, Tensor]], grid: Grid, frames: Sequence[int], key: Sequence[State], path: Path
) -> None:
    """Write pictures of the slots of some frames, one after another.

    Args:
        pictures: a title, and a `State` of each slot, uint8 (F, N).
        grid: of the frames.
        frames: their numbers, (F,).
        key: what the colours of which states mean is told.
        path: of the file.

    Raises:
        UserError: the file cannot be written.
    """
    check_suffix(path, [".gif"])
    first, *others = [_picture(title, slots, grid, frames, key) for title, slots in pictures]
    milliseconds = [int(1000 * seconds) for seconds in [_SECONDS] * len(others) + [_LAST]]
    with writing(path):
        first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)


def _picture(title: str, slots: Tensor, grid: Grid, frames: Sequence[int], key: Sequence[State]) -> Image.Image:
    scale = max(1, _SIDE // max(grid.height, grid.width))
    across = min(grid.frames, ACROSS)
    width, height = grid.width * scale + _GAP, grid.height * scale + _GAP + _LINE
    corners = [(_GAP + frame % across * width, _GAP + _LINE + frame // across * height) for frame in range(grid.frames)]
    rows = corners[-1][1] + height + 2 * _LINE
    pixels = torch.full((rows, max(across * width + _GAP, _NARROWEST)), _PAPER, dtype=torch.uint8)
    squares = slots.view(grid.frames, grid.height, grid.width)
    enlarged = squares.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    for (x, y), frame in zip(corners, enlarged, strict=True):
        pixels[y + _LINE :, x:][: frame.shape[0], : frame.shape[1]] = frame
    picture = Image.fromarray(pixels.numpy())
    picture.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in _PALETTE))
    pen = ImageDraw.Draw(picture)
    pen.text((_GAP, 4), title, fill=_INK)
    for number, corner in zip(frames, corners, strict=True):
        pen.text(corner, f"frame {number}", fill=_INK)
    for x, state in zip(range(_GAP, _NARROWEST, _KEY), key, strict=False):
        pen.rectangle((x, rows - 16, x + 9, rows - 7), fill=int(state))
        pen.text((x + 14, rows - 18), state.name, fill=_INK)
    return picture
