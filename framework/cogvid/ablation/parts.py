"""Parts of `cogvid data tokenize` as jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TokenPart:
    """One of the parts of an experiment's tokens.

    Attributes:
        experiment: its name or file.
        changes: `key=value`, of the command line.
        variant: of the experiment; None for the experiment itself.
        part: `K/N`.
        runs: folder of all runs.
        folder: of this part.
    """

    experiment: str
    changes: tuple[str, ...]
    variant: str | None
    part: str
    runs: Path
    folder: Path

    @property
    def title(self) -> str:
        """For people."""
        return f"part {self.part}"

    @property
    def cells(self) -> dict[str, str]:
        """What tells it from others, by the headings of a table."""
        return {"part": self.part}

    @property
    def command(self) -> list[str]:
        """What follows `cogvid`."""
        variant = ["--variant", self.variant] if self.variant else []
        return [
            *("data", "tokenize", self.experiment, *self.changes),
            *(*variant, "--runs", str(self.runs), "--part", self.part),
        ]
