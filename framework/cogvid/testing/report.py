"""What a conformance suite found: failed cases by check, and the error that lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Stage


@dataclass(frozen=True)
class Case:
    """What a check was tried on; None where the check does not depend on it.

    Attributes:
        grid: of the frames.
        stage: whose causal order.
        layer: index of the transformer layer.
        dtype: of queries, keys and values.
        padded: whether the text of the batch has padding on the left.
        bias: dtype of the bias's parameters, None without a bias.
    """

    grid: Grid
    stage: Stage | None = None
    layer: int | None = None
    dtype: torch.dtype | None = None
    padded: bool | None = None
    bias: torch.dtype | None = None

    def __str__(self) -> str:
        parts = [self.stage, f"grid {self.grid.frames}x{self.grid.height}x{self.grid.width}"]
        parts += [None if self.layer is None else f"layer {self.layer}", _name(self.dtype)]
        parts += [None if self.padded is None else "padded text" if self.padded else "whole text"]
        parts += [None if self.bias is None else f"{_name(self.bias)} bias"]
        return ", ".join(part for part in parts if part)


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Failure:
    """A case in which a check failed, or a caption, and the problem in words."""

    case: Case | str
    problem: str

    def __str__(self) -> str:
        return f"{self.case}: {self.problem}"


class ConformanceError(AssertionError):
    """A component breaks promises of its interface.

    Attributes:
        failures: for each failed check, its failures in the order they were found.
    """

    def __init__(self, component: str, failures: Mapping[str, Sequence[Failure]]) -> None:
        """Args: name of the component; failures by check."""
        self.failures = failures
        lines = [f"{component} does not conform: {', '.join(failures)}"]
        for check, found in failures.items():
            more = len({failure.case for failure in found}) - 1
            lines.append(f"  {check}: {found[0]}" + (f" (and {more} more)" if more else ""))
        super().__init__("\n".join(lines))
