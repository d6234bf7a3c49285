"""Double the frames again and again with the interpolation model: the paper's hierarchical generation."""

from __future__ import annotations

import cogvid


class Recursive(cogvid.InterpolationStrategy):
    """Rounds that each put a frame between all neighbours: 5, 9, 17, 33, ... (CogVideo, section 3.1).

    A window has five frames: three known neighbours, given, and the two between them. The windows of a round
    lie side by side and share the known frames where they meet.
    """

    def plan(self, key_frames: int, target: int) -> list[cogvid.Round]:
        """One round for each doubling."""
        if key_frames < 3 or key_frames % 2 == 0:
            raise cogvid.UserError(f"recursive: {key_frames} key frames do not fill windows of three: use 3, 5, 7, ...")
        gap, remainder = divmod(target - 1, key_frames - 1)
        if remainder or gap < 1 or gap.bit_count() != 1:
            reachable = ", ".join(str((key_frames - 1) * 2**rounds + 1) for rounds in range(5))
            raise cogvid.UserError(
                f"recursive: {key_frames} key frames do not double to {target} frames: use {reachable}, ..."
            )
        rounds: list[cogvid.Round] = []
        while gap > 1:
            window, gap = 2 * gap, gap // 2
            windows = tuple(
                cogvid.Window(
                    frames=tuple(range(first, first + window + 1, gap)),
                    given=(True, False, True, False, True),
                )
                for first in range(0, target - 1, window)
            )
            rounds.append(cogvid.Round(windows, rate_factor=2.0 ** (len(rounds) + 1)))
        return rounds


@cogvid.hookimpl
def register_interpolation_strategies() -> dict[str, type]:
    """The strategy `recursive`."""
    return {"recursive": Recursive}
