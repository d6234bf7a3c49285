"""The progress bar of everything that takes longer than a few seconds."""

from __future__ import annotations

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def stage_progress(passed: ProgressColumn | None = None) -> Progress:
    """The progress bar of everything that takes longer than a few seconds; it shows the time passed, or `passed`."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        passed or TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bar.live.transient = not bar.console.is_terminal
    return bar
