"""A job on a machine of a cluster, and the note in its folder by which others see how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cogvid.ablation.jobs import Work
from cogvid.ablation.launcher import Standing
from cogvid.ablation.process import Process, end, python

_NOTE = ".job.json"
# Seconds between looks at a process.
_LOOK = 0.5


@dataclass
class Remote:
    """Does a job on the machine where it is called, on the same file system.

    Attributes:
        words: of the command line.
        folder: of the job.
        here: the current folder.
        environment: what the process has more than the one that starts it.
        process: as long as it is called.
    """

    words: list[str]
    folder: Path
    here: Path
    environment: dict[str, str]
    process: Process | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, job: Work, environment: Mapping[str, str]) -> Remote:
        """A job that another machine is to do as it would be done here."""
        return cls(python(job.command), job.folder.absolute(), Path.cwd(), dict(environment))

    def __call__(self) -> Standing:
        """Do it, whatever becomes of it.

        Returns:
            How it ended.
        """
        self.process = process = Process(self.words, self.folder, self.environment, self.here)
        try:
            write_note(self.folder, process.standing())
            while not (standing := process.standing()).ended:
                process.wait(_LOOK)
        except BaseException:
            self.end()
            raise
        write_note(self.folder, standing)
        return standing

    def end(self) -> None:
        """End it so that it can go on, here or elsewhere."""
        if self.process is not None:
            end([self.process])
        write_note(self.folder, Standing("queued"))


def write_note(folder: Path, standing: Standing) -> None:
    """Say how far a job is, for who looks from another machine."""
    partial = folder / f"{_NOTE}.partial"
    partial.write_text(json.dumps(asdict(standing)) + "\n", encoding="utf-8")
    partial.replace(folder / _NOTE)


def read_note(folder: Path) -> Standing:
    """What was said last of a job; that it is queued, where nothing was, or what cannot be read."""
    with suppress(OSError, ValueError, TypeError):
        return Standing(**json.loads((folder / _NOTE).read_text(encoding="utf-8")))
    return Standing("queued")


def forget_note(folder: Path) -> None:
    """Take away what was said of an earlier attempt."""
    (folder / _NOTE).unlink(missing_ok=True)
