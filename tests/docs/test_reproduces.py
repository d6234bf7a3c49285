"""What the page "What reproduces" shows is what `cogvid compare` makes of the records that are kept."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cogvid.pipeline.listing import read_listing

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from made.ablations import PAGE, RECORDS, remade  # noqa: E402

# Those of the paper's parts; what decodings cost is on their own page, of one trained model.
ABLATIONS = sorted(
    path.stem for path in ROOT.glob("experiments/ablation_*.yaml") if "budget/five_seeds" in path.read_text()
)


def test_the_tables_are_those_of_the_records() -> None:
    page = PAGE.read_text()
    assert sorted(re.findall(r"^<!-- (ablation_\w+): .* -->\n\| ", page, re.MULTILINE)) == ABLATIONS
    assert remade(page) == page, "tables differ from the records: run `python -m made.ablations` in docs"


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_runs_of_an_ablation_are_all_kept(name: str) -> None:
    listed = read_listing(RECORDS / name)
    assert listed.seeds == (0, 1, 2, 3, 4)
    runs = {(path.parts[-3], int(path.parts[-2])) for path in RECORDS.glob(f"{name}/*/*/metrics.json")}
    assert runs == {(variant, seed) for variant in listed.variants for seed in listed.seeds}
