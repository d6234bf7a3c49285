"""The passes of a clip in motion: which slots are final, computed, guessed or waiting, as an animated GIF."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from cogvid.inspect.passes import ClipPasses
from cogvid.inspect.schedule_animation import State, pictured_steps, said_steps, write_animation


def pass_states(clip: ClipPasses, shown: range) -> Tensor:
    """A `State` of each slot, uint8 (F, N), in a picture of some passes.

    Args:
        clip: whose slots.
        shown: numbers of the passes.
    """
    found = torch.full((clip.grid.tokens,), int(State.waiting), dtype=torch.uint8)
    for _, one in clip.passes[shown.start : shown.stop]:
        found[one.slots] = State.guessed
    found = found.view(clip.grid.frames, -1)
    found[(clip.finished >= shown.start) & (clip.finished < shown.stop)] = State.running
    found[clip.finished < shown.start] = State.done
    found[clip.finished < 0] = State.given
    return found


def animate_passes(clip: ClipPasses, title: str, path: Path) -> None:
    """Write the animation: the parts of the clip one after another, on all its frames.

    Raises:
        UserError: the file cannot be written.
    """
    total = len(clip.passes)
    pictures = [
        (f"{title}, {clip.passes[shown[-1]][0]}: {said_steps(shown, 'pass', 'passes')}, of {total:,}", shown)
        for shown in pictured_steps(total)
    ]
    states = [(text, pass_states(clip, shown)) for text, shown in pictures]
    write_animation(states, clip.grid, clip.timeline, tuple(State), path)
