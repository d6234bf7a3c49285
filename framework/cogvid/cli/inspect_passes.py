"""`cogvid inspect schedule RUN --clip N`: the passes of a run's clip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cogvid.inspect.passes import ClipPasses

_FRAMES = 12  # more are not all listed


def listed(frames: int) -> list[int | None]:
    """The frames to list, None for those left out."""
    every = list(range(frames))
    return [*every] if frames <= _FRAMES else [*every[: _FRAMES - 3], None, *every[-2:]]


def show_clip(words: Sequence[str], number: int, decoding: str | None, path: Path) -> None:
    """The passes of a run's clip, printed and drawn."""
    from rich.console import Console

    from cogvid.inspect.figure import check_suffix, writing
    from cogvid.inspect.passes_animation import animate_passes
    from cogvid.inspect.run_clip import RunClip

    check_suffix(path, [".gif"])
    with writing(path):
        path.parent.resolve(strict=True)  # a folder that is not there should show before anything is generated
    run, *changes = words
    if decoding:
        changes.insert(0, f"generation.decoding.name={decoding}")
    clip = RunClip(Path(run), changes, number)
    passes, console = clip.passes(), Console()
    console.print(f"Clip {number} of {run}: {clip.caption}\n", markup=False, highlight=False, soft_wrap=True)
    _print_passes(console, passes, clip.decoding)
    with Console(stderr=True).status("drawing"):
        animate_passes(passes, f"clip {number}, {clip.decoding}", path)
    console.print(f"\nAnimation: {path}", markup=False, soft_wrap=True)


def _print_passes(console: Console, clip: ClipPasses, decoding: str) -> None:
    from rich.table import Table

    grid, n = clip.grid, clip.grid.frame_tokens
    title = f"{decoding} on {grid.frames}x{grid.height}x{grid.width}"
    table = Table(
        "", "passes", "shortest schedule", "slots", "computed for each kept", title=title, title_justify="left"
    )
    for part in clip.parts:
        table.add_row(
            part.name,
            f"{len(part.passes):,}",
            f"{part.steps:,} steps",
            f"{part.kept:,}",
            f"{part.computed / part.kept:.2f}",
        )
    kept, passes = sum(part.kept for part in clip.parts), len(clip.passes)
    computed = sum(part.computed for part in clip.parts)
    table.add_row("the clip", f"{passes:,}", f"{clip.steps:,} steps", f"{kept:,}", f"{computed / kept:.2f}")
    table.add_section()
    for frame in listed(grid.frames):
        if frame is None:
            table.add_row("...")
            continue
        own, name = clip.frame_passes(frame), f"frame {clip.timeline[frame]}"
        if own is None:
            table.add_row(name, "given")
        else:
            each = int(clip.computed[frame].sum()) / n
            table.add_row(name, f"{own[0]:,} to {own[1]:,}", "", f"{n:,}", f"{each:.2f}")
    console.print(table)
    console.print(
        f"\n{passes:,} passes where the shortest schedule has {clip.steps:,} steps: {clip.steps / passes:.2f} x. Drawn "
        "are the slots that are final with a pass (running), those computed that will be again (guessed), and those "
        "that were final before (done).",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
