"""The held-out losses of a run's stage, while the run is at work and afterwards."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

from cogvid.pipeline.run_state import read_run_state


def stage_folder(run: Path, stage: str) -> Path | None:
    """The folder of a run's stage; None before the run comes to it.

    Args:
        run: its folder.
        stage: its name.
    """
    finished = run / "stages" / stage
    if finished.is_dir():
        return finished
    said = read_run_state(run)
    return Path(said.folder) if said.stage == stage else None


def held_out_losses(run: Path, stage: str) -> list[tuple[int, float]]:
    """(step, held-out loss) of a run's stage as far as they are written down, in the order of the steps; losses that
    are no numbers are left out."""
    folder = stage_folder(run, stage)
    found: dict[int, float] = {}
    if folder is None:
        return []
    with suppress(OSError):
        for line in (folder / "history.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            # The last line may be half written.
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                step, loss = int(entry["step"]), float(entry["held_out"])
                if math.isfinite(loss):
                    found[step] = loss
    return sorted(found.items())


def is_finished(run: Path, stage: str) -> bool:
    """Whether a run has finished a stage."""
    return (run / "stages" / stage / "stage.json").is_file()
