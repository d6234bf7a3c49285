"""A decode schedule in one picture: the step of each slot, the critical path, and the slots of each step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cogvid.inspect.figure import ACROSS, BLUE, GREY, ORANGE, PALE, SIDE, check_suffix, frame_axes, writing
from cogvid.inspect.schedule import ScheduleNumbers, Stretch

_COLOURS = LinearSegmentedColormap.from_list("steps", [PALE, BLUE, "#0b1f4d"]).with_extremes(bad=GREY)
_CURVE = 1.6  # inches of the curve below the frames
_POINTS = 72  # of an inch


def draw_schedule(numbers: ScheduleNumbers, path: Path) -> None:
    """Write the picture.

    Raises:
        UserError: the file cannot be written.
    """
    check_suffix(path)
    subject, grid = numbers.subject, numbers.subject.grid
    across = min(grid.frames, ACROSS)
    down = -(-grid.frames // across)
    width = max(across * SIDE + 0.9, 5.6)
    height = down * (SIDE * grid.height / grid.width + 0.25) + 0.5
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": subject.name}):
        figure = Figure(figsize=(width, height + _CURVE), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{subject.name} on {grid.frames} frames of {grid.height}x{grid.width}, {subject.stage}: "
            f"{numbers.steps:,} steps instead of {numbers.slots:,}",
            fontsize=9,
        )
        parts: Any = figure.subfigures(2, 1, height_ratios=[height, _CURVE])
        _draw_frames(list(parts[0].subplots(down, across, squeeze=False).flat), numbers)
        _draw_widths(parts[1].subplots(), numbers)
        with writing(path):
            figure.savefig(path, dpi=160)


def _draw_frames(axes: list[mpl.axes.Axes], numbers: ScheduleNumbers) -> None:
    grid, given = numbers.subject.grid, numbers.subject.given
    steps = numbers.schedule.view(grid.frames, grid.height, grid.width)
    shown = torch.where(steps < 0, float("nan"), steps.double()).numpy()
    for number, axis in frame_axes(axes, given):
        image = axis.imshow(
            shown[number], cmap=_COLOURS, vmin=0, vmax=max(numbers.steps - 1, 1), interpolation="nearest"
        )
        for run in (run for run in numbers.path if run.frame == number):
            _draw_run(axis, run, grid.width)
    bar = axes[0].figure.colorbar(image, ax=axes, aspect=30, pad=0.01)
    bar.set_label("step; the line: the critical path", fontsize=7)


def _draw_run(axis: mpl.axes.Axes, run: Stretch, width: int) -> None:
    rows = range(run.first // width, run.last // width + 1)
    # Half a place longer at either end, so that a single place shows.
    lines = [
        [(max(run.first - row * width, 0) - 0.4, row), (min(run.last - row * width, width - 1) + 0.4, row)]
        for row in rows
    ]
    axis.add_collection(LineCollection(lines, colors=ORANGE, linewidths=0.35 * SIDE * _POINTS / width))


def _draw_widths(axis: mpl.axes.Axes, numbers: ScheduleNumbers) -> None:
    mean = numbers.slots / numbers.steps
    axis.stairs(numbers.widths.numpy(), color=BLUE, fill=True)
    axis.axhline(mean, color=ORANGE, linewidth=1)
    axis.set(xlim=(0, numbers.steps), ylim=(0, None), xlabel="step", ylabel="slots")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"slots in each step; the line: their mean, {mean:,.2f}", fontsize=7)
