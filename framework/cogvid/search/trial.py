"""A trial of a search: the values that it tries, the run that tries them, and what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cogvid.ablation.jobs import Job
from cogvid.config.sources import parse_yaml

Phase = Literal["running", "finished", "pruned", "failed"]
_PLAIN = re.compile(r"[\w.+/-]+")


@dataclass(frozen=True)
class Trial:
    """As the journal of a search has it.

    Attributes:
        values: by the full key of the option, as the command line says them.
        value: of the target, once it is known.
        note: why it failed, or where it was pruned.
    """

    number: int
    values: Mapping[str, str]
    phase: Phase
    value: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """For people."""
        return f"trial {self.number}"

    @property
    def changes(self) -> list[str]:
        """The values as `key=value`."""
        return [f"{key}={value}" for key, value in self.values.items()]


@dataclass(frozen=True)
class TrialJob(Job):
    """The run of a trial.

    Attributes:
        number: of the trial.
    """

    number: int = 0

    @property
    def title(self) -> str:
        """For people."""
        return f"trial {self.number}"


def trial_variant(variant: str, number: int) -> str:
    """The variant of a trial's runs: counted, since values soon are too long for a folder.

    Args:
        variant: that the search starts from; empty for the experiment itself.
        number: of the trial.
    """
    return f"{variant}-trial-{number:03d}" if variant else f"trial-{number:03d}"


def as_said(value: Any) -> str:
    """A value as the command line says it."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse_yaml(value, "")[0] == value:
        return value
    return json.dumps(value)
