"""Sees jobs through to their ends, whatever ends some of them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Launcher
from cogvid.ablation.state import State, Watch
from cogvid.ablation.table import Shown

# Seconds between looks.
_EVERY = 0.5


def follow(jobs: Sequence[Work], launcher: Launcher, shown: Shown) -> dict[Work, State]:
    """Have all jobs done, and show what they are at until the last has ended.

    Args:
        jobs: in the order to begin them.
        launcher: starts them.
        shown: shows them.

    Returns:
        How each ended: `finished` or `failed`.

    Raises:
        Interrupted: by a signal; the jobs that ran have been ended, and go on when they are started again.
        UserError: the launcher takes none of them, or not all; those that it has taken have been ended, too.
    """
    watch, taken = Watch(), 0
    try:
        for job in jobs:
            launcher.submit(job)
            taken += 1
        while True:
            states = watch.states(launcher.poll())
            shown.show(states)
            if all(state.ended for state in states.values()):
                return states
            time.sleep(_EVERY)
    except BaseException:
        if taken:
            shown.say("Ending the runs that are at work; each leaves a checkpoint of its last step.")
        launcher.cancel()
        raise
