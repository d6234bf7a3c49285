"""Jobs as processes of this machine, a few at once."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Standing
from cogvid.ablation.process import GRACE, Process, end, python


@dataclass
class LocalOptions:
    """None: this machine's cores and GPUs are shared out evenly."""


class Local:
    """A launcher of processes on this machine; they end with this process.

    Args:
        shares: what the environments of processes that run at once have more; there are as many at once.
    """

    def __init__(self, shares: Sequence[Mapping[str, str]]) -> None:
        self._free = deque(shares)
        self._queued: deque[Work] = deque()
        self._running: dict[Work, tuple[Process, Mapping[str, str]]] = {}
        self._ended: dict[Work, Standing] = {}
        # When those are killed that were asked to end.
        self._killed_at: dict[Work, float] = {}

    def submit(self, job: Work) -> None:
        self._queued.append(job)

    def poll(self) -> dict[Work, Standing]:
        for job, (process, share) in list(self._running.items()):
            if time.monotonic() > self._killed_at.get(job, math.inf):
                process.signal(signal.SIGKILL)
            standing = process.standing()
            if standing.ended:
                del self._running[job]
                self._free.append(share)
                self._ended[job] = standing
        while self._queued and self._free:
            job, share = self._queued.popleft(), self._free.popleft()
            self._running[job] = Process(python(job.command), job.folder, share), share
        return (
            {job: Standing("queued") for job in self._queued}
            | {job: Standing("running", process.owner) for job, (process, _) in self._running.items()}
            | self._ended
        )

    def end(self, job: Work) -> None:
        if job in self._queued:
            self._queued.remove(job)
            self._ended[job] = Standing("failed", cause="it was ended before it began")
        elif job in self._running:
            self._running[job][0].signal(signal.SIGTERM)
            self._killed_at[job] = time.monotonic() + GRACE

    def cancel(self) -> None:
        self._queued.clear()
        end([process for process, _ in self._running.values()])
