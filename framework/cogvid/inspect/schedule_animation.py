"""A decode schedule in motion: which slots are done, run or wait, as an animated GIF."""

from __future__ import annotations

from enum import IntEnum
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from cogvid.inspect.figure import ACROSS, BLUE, GREY, ORANGE, PALE, check_suffix, writing
from cogvid.inspect.schedule import ScheduleNumbers

PICTURES = 120  # at most; more steps share pictures
_SIDE = 120  # pixels of a frame, about
_GAP, _LINE = 8, 16  # pixels between frames, and of a line of text
_NARROWEST, _KEY = 480, 80  # pixels of a picture, so that its title fits, and of a state in the key
_SECONDS, _LAST = 0.08, 2.0  # of a picture, and of the last one


class State(IntEnum):
    """How a slot stands to the steps of a picture; also its colour's number in the palette."""

    waiting = 0
    given = 1
    done = 2
    running = 3


_PAPER, _INK = 4, 5
_PALETTE = [GREY, PALE, BLUE, ORANGE, "#ffffff", "#22252b"]


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


def animate_schedule(numbers: ScheduleNumbers, path: Path) -> None:
    """Write the animation.

    Raises:
        UserError: the file cannot be written.
    """
    check_suffix(path, [".gif"])
    parts = pictured_steps(numbers.steps)
    first, *others = [_picture(numbers, running) for running in parts]
    milliseconds = [int(1000 * seconds) for seconds in [_SECONDS] * len(others) + [_LAST]]
    with writing(path):
        first.save(path, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)


def _picture(numbers: ScheduleNumbers, running: range) -> Image.Image:
    subject, grid = numbers.subject, numbers.subject.grid
    scale = max(1, _SIDE // max(grid.height, grid.width))
    across = min(grid.frames, ACROSS)
    width, height = grid.width * scale + _GAP, grid.height * scale + _GAP + _LINE
    corners = [(_GAP + frame % across * width, _GAP + _LINE + frame // across * height) for frame in range(grid.frames)]
    rows = corners[-1][1] + height + 2 * _LINE
    pixels = torch.full((rows, max(across * width + _GAP, _NARROWEST)), _PAPER, dtype=torch.uint8)
    found = states(numbers.schedule, running).view(grid.frames, grid.height, grid.width)
    enlarged = found.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    for (x, y), frame in zip(corners, enlarged, strict=True):
        pixels[y + _LINE :, x:][: frame.shape[0], : frame.shape[1]] = frame
    picture = Image.fromarray(pixels.numpy())
    picture.putpalette(b"".join(bytes.fromhex(colour[1:]) for colour in _PALETTE))
    pen = ImageDraw.Draw(picture)
    sides = f"{grid.frames}x{grid.height}x{grid.width}"
    these = f"step {running[0]:,}" if len(running) == 1 else f"steps {running[0]:,} to {running[-1]:,}"
    pen.text((_GAP, 4), f"{subject.name} on {sides}, {subject.stage}: {these}, of {numbers.steps:,}", fill=_INK)
    for number, corner in enumerate(corners):
        pen.text(corner, f"frame {number}", fill=_INK)
    for x, state in zip(range(_GAP, _NARROWEST, _KEY), State, strict=False):
        pen.rectangle((x, rows - 16, x + 9, rows - 7), fill=int(state))
        pen.text((x + 14, rows - 18), state.name, fill=_INK)
    return picture
