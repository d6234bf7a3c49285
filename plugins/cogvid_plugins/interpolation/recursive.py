"""Double the frames again and again with the interpolation model: the paper's hierarchical generation."""

from __future__ import annotations

import cogvid


class Recursive(cogvid.InterpolationStrategy):
    """Rounds that each put a frame between all neighbours: 5, 9, 17, 33, ... (CogVideo, section 3.1).

    A window has as many frames as there are key frames: every other one, from the first to the last, is known and
    given, and those between are made. The windows of a round lie side by side and share the known frames where they
    meet.
    """

    def plan(self, key_frames: int, target: int) -> list[cogvid.Round]:
        """One round for each doubling.

        Raises:
            UserError: the key frames are not an odd number from 3 on, or do not double to `target` frames; the
                message names numbers that do.
        """
        if key_frames < 3 or key_frames % 2 == 0:
            raise cogvid.UserError(
                f"recursive: {key_frames} key frames (video.frames) make no windows that begin and end with a given "
                f"frame and have every other one given: {_better_key_frames(key_frames, target)}"
            )
        if not _doubles(key_frames, target):
            raise cogvid.UserError(
                f"recursive: {key_frames} key frames do not double to {target} frames: use {_targets(key_frames)}, ... "
                "(generation.frames)"
            )
        last = target - 1
        gap = last // (key_frames - 1)
        given = tuple(place % 2 == 0 for place in range(key_frames))
        rounds: list[cogvid.Round] = []
        while gap > 1:
            gap //= 2
            length = (key_frames - 1) * gap
            windows = tuple(
                cogvid.Window(frames=tuple(range(first, first + length + 1, gap)), given=given)
                for first in range(0, last, length)
            )
            rounds.append(cogvid.Round(windows, rate_factor=2.0 ** (len(rounds) + 1)))
        return rounds


def _doubles(key_frames: int, target: int) -> bool:
    """Whether the gaps between the key frames have a power of two of the final intervals each."""
    gap, remainder = divmod(target - 1, key_frames - 1)
    return remainder == 0 and gap > 0 and gap.bit_count() == 1


def _targets(key_frames: int) -> str:
    return ", ".join(str((key_frames - 1) * 2**rounds + 1) for rounds in range(5))


def _better_key_frames(key_frames: int, target: int) -> str:
    """What to do about a number of key frames that makes no windows."""
    fitting = [count for count in range(3, target + 1, 2) if _doubles(count, target)]
    if fitting:
        return f"for {target} frames (generation.frames), use {', '.join(map(str, fitting))}"
    odd = max(3, key_frames + 1)
    return f"use {odd}, and for generation.frames {_targets(odd)}, ..."


@cogvid.hookimpl
def register_interpolation_strategies() -> dict[str, type]:
    """The strategy `recursive`."""
    return {"recursive": Recursive}
