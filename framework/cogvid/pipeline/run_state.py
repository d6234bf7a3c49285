"""What a run is at, in a small file of its folder, for whoever looks at it from outside."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """The stage that a run is at or waits for.

    Attributes:
        stage: its name; empty before the first and where all that are needed were found.
        folder: of the stage; its lock says who is at work on it.
        steps: of its training; 0 for a stage that trains nothing.
    """

    stage: str = ""
    folder: str = ""
    steps: int = 0


def write_run_state(run: Path, state: RunState) -> None:
    """Say what a run is at.

    Args:
        run: its folder.
        state: of it.
    """
    partial = run / f".{STATE}.partial"
    partial.write_text(json.dumps(asdict(state)) + "\n", encoding="utf-8")
    partial.replace(run / STATE)


def read_run_state(run: Path) -> RunState:
    """What was said last; nothing where nothing was, or what cannot be read."""
    try:
        content = json.loads((run / STATE).read_text(encoding="utf-8"))
        return RunState(str(content["stage"]), str(content["folder"]), int(content["steps"]))
    except (OSError, ValueError, KeyError, TypeError):
        return RunState()
