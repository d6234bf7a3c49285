"""Go on from the last frames, window after window: the one-stage baseline of hierarchical generation."""

from __future__ import annotations

from dataclasses import dataclass

import cogvid
from cogvid.config.ranges import at_least, option


class SequentialOverlap(cogvid.InterpolationStrategy):
    """Each round is one window of the sequential stage that is given the last frames made, as
    CogVideo's ablations do without interpolation.

    The key frames are the first frames of the clip, at its final rate. The last window ends with the clip, and so may
    be given more frames than the others. Clips of any length keep no more than a window in memory.
    """

    @dataclass
    class Config:
        """`overlap`: how many frames a window is given, at least; the paper compares 1 and 2."""

        overlap: int = option(1, at_least(1))

    def key_frame_places(self, key_frames: int, target: int) -> list[int]:
        """The first frames of the clip."""
        return list(range(key_frames))

    def plan(self, key_frames: int, target: int) -> list[cogvid.Round]:
        """One round for each window."""
        overlap = self.config.overlap
        if overlap >= key_frames:
            raise cogvid.UserError(
                f"sequential_overlap: windows of {key_frames} frames (video.frames) that overlap by {overlap} make "
                f"no new ones: use an overlap below {key_frames}"
            )
        if target < key_frames:
            raise cogvid.UserError(
                f"sequential_overlap: {key_frames} key frames do not fit into {target} frames: use {key_frames} or more"
            )
        rounds: list[cogvid.Round] = []
        made = key_frames
        while made < target:
            first = min(made - overlap, target - key_frames)
            frames = tuple(range(first, first + key_frames))
            window = cogvid.Window(frames, given=tuple(frame < made for frame in frames))
            rounds.append(cogvid.Round((window,), rate_factor=1.0, stage="sequential"))
            made = first + key_frames
        return rounds


@cogvid.hookimpl
def register_interpolation_strategies() -> dict[str, type]:
    """The strategy `sequential_overlap`."""
    return {"sequential_overlap": SequentialOverlap}
