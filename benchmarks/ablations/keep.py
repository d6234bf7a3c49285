"""Keeps here what a comparison reads of runs, not their videos and weights: `python keep.py runs/ablation_gate ...`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cogvid.compare.read import RUN_FILES, TRAINING_STAGES
from cogvid.pipeline.listing import LISTING

HERE = Path(__file__).parent
FILES = (*RUN_FILES, "samples/captions.jsonl", *(f"stages/{stage}/stage.json" for stage in TRAINING_STAGES))


def keep(experiment: Path) -> None:
    """Keep the records of an experiment's runs, in place of those that were kept before."""
    if not (experiment / LISTING).is_file():
        sys.exit(f"{experiment} is not the folder of an ablation: it has no {LISTING}.")
    kept = HERE / experiment.name
    shutil.rmtree(kept, ignore_errors=True)
    for path in (experiment / LISTING, *(path for file in FILES for path in experiment.glob(f"*/*/{file}"))):
        to = kept / path.relative_to(experiment)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        keep(Path(folder))
