"""What of a machine a job needs: said to what shares out those of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from cogvid.ablation.jobs import shares


@dataclass(frozen=True)
class Needs:
    """Of each of some jobs.

    Attributes:
        processes: (`trainer.devices`), all on one machine.
        threads: of each process.
        gpus: of all processes.
    """

    processes: int = 1
    threads: int = 1
    gpus: int = 0

    @property
    def cpus(self) -> int:
        """Of all processes."""
        return self.processes * self.threads

    def environment(self, cpus: int) -> dict[str, str]:
        """What the environment of a job has more that has so many CPUs; which GPUs it has the cluster says."""
        (share,) = shares(1, self.processes, cpus)
        return share
