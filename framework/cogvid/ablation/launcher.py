"""What starts jobs: on this machine, or by whatever shares out those of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from cogvid.ablation.jobs import Work


@dataclass(frozen=True)
class Standing:
    """How far a job is, as its launcher knows it.

    Attributes:
        owner: `PID HOST` of the process that does it, as it writes it into the locks that it holds; while it runs.
        cause: why it failed, in one line.
    """

    phase: Literal["queued", "running", "finished", "failed"]
    owner: str = ""
    cause: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.phase in ("finished", "failed")


class Launcher(Protocol):
    """Starts jobs, each when there is room for it, and learns how they end."""

    def submit(self, job: Work) -> None:
        """Take a job, behind those that it has already."""

    def poll(self) -> Mapping[Work, Standing]:
        """How far all of its jobs are; called again and again, it starts what can be started."""

    def end(self, job: Work) -> None:
        """End one job so that it can go on from where it is, without waiting for its end; it counts as failed."""

    def cancel(self) -> None:
        """Start no more jobs, and end those that run so that they can go on from where they are."""
