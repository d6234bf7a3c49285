"""A job is one variant with one seed, done by a process of its own: in which order, with what share of a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

THREADS = "OMP_NUM_THREADS"
_GPUS = "CUDA_VISIBLE_DEVICES"


class Work(Protocol):
    """What a launcher starts as a process of its own: a `cogvid` command."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def cells(self) -> Mapping[str, str]:
        """What tells it from others, by the headings of a table."""

    @property
    def command(self) -> list[str]:
        """What follows `cogvid`."""

    @property
    def folder(self) -> Path:
        """Of its lock, of what it is at, and of all that it says."""


@dataclass(frozen=True)
class Job:
    """One variant of an experiment with one seed.

    Attributes:
        experiment: its name or file.
        changes: `key=value`, of the command line.
        runs: folder of all runs.
        folder: of this run.
        wait: for other processes that are at work on what it needs.
    """

    experiment: str
    changes: tuple[str, ...]
    variant: str
    seed: int
    runs: Path
    folder: Path
    wait: bool = True

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.variant}, seed {self.seed}"

    @property
    def cells(self) -> dict[str, str]:
        """What tells it from others, by the headings of a table."""
        return {"variant": self.variant, "seed": str(self.seed)}

    @property
    def command(self) -> list[str]:
        """What follows `cogvid`."""
        changes = [*self.changes, f"seed={self.seed}"]
        options = ["--variant", self.variant, "--runs", str(self.runs), *([] if self.wait else ["--no-wait"])]
        return ["run", self.experiment, *changes, *options]


def in_order(variants: Sequence[str], seeds: Sequence[int], at_once: int) -> list[tuple[str, int]]:
    """Variants with seeds, in the order to begin them.

    Variants with one seed share their first stages: begun side by side, all but one of them would wait. So jobs that
    run at once are of different seeds; one after the other they give a whole comparison as soon as they can.
    """
    if at_once > 1:
        return [(variant, seed) for variant in variants for seed in seeds]
    return [(variant, seed) for seed in seeds for variant in variants]


def shares(
    at_once: int, processes: int, cores: int, gpus: Sequence[str] = (), most: int | None = None
) -> list[dict[str, str]]:
    """What the environments of jobs have more, one for each of those that run at once.

    Args:
        at_once: jobs.
        processes: of each of them (`trainer.devices`).
        cores: that can be used here, shared out evenly: more threads than cores wait for each other.
        gpus: that can be used here, dealt out in turn; none where jobs use none.
        most: threads a process may have, whatever its share.
    """
    threads = max(1, cores // (at_once * processes))
    environments = []
    for number in range(at_once):
        environment = {THREADS: str(min(threads, most or threads))}
        if gpus:
            first = number * processes
            environment[_GPUS] = ",".join(gpus[place % len(gpus)] for place in range(first, first + processes))
        environments.append(environment)
    return environments


def threads_wanted(environment: Mapping[str, str]) -> int | None:
    """The most threads of a process that the environment asks for; None where it does not."""
    said = environment.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) else None
