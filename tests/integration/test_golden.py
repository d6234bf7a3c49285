"""The losses of a seeded tiny run of every stage are those that were kept: `make golden` compares them.

Other processors round otherwise, so they are held to a thousandth of their value, and only on request:
COGVID_GOLDEN=compare, or COGVID_GOLDEN=keep to keep those of now.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cogvid.config.compose import load_experiment
from cogvid.pipeline.run import Run

KEPT = Path(__file__).with_name("golden.json")
STAGES = ("tokenizer", "image_base", "sequential", "interpolation")
WANTED = os.environ.get("COGVID_GOLDEN")


@pytest.mark.skipif(WANTED is None, reason="on request: make golden")
@pytest.mark.parametrize("variant", ["local", "all"])
def test_the_losses_are_those_that_were_kept(tiny: Path, tmp_path: Path, variant: str) -> None:
    run = Run(load_experiment(tiny, variant), tmp_path / "runs")
    run.finish()
    found = {}
    for stage in STAGES:
        lines = (run.folder / "stages" / stage / "history.jsonl").read_text().splitlines()
        found[stage] = [json.loads(line)["loss"] for line in lines]
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if WANTED == "keep":
        KEPT.write_text(json.dumps(kept | {variant: found}, indent=1) + "\n")
        return
    assert found.keys() == kept[variant].keys()
    for stage, losses in found.items():
        assert losses == pytest.approx(kept[variant][stage], rel=1e-3), stage
