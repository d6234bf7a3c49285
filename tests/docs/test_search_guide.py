"""The guide to searches, run as its reader would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cogvid.config.schema import SearchConfig
from cogvid.config.space import Range

GUIDE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
# In two steps a stage has one held-out loss before the last.
SMALL = {"validate_every: 90": "validate_every: 1", "trials: 12": "trials: 1", "search.trials=14": "search.trials=2"}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_guides_search_runs_and_goes_on(read: Callable[..., list[str]], tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="Optuna is an extra: pip install 'cogvid[search]'")
    page = GUIDE
    for said, small in SMALL.items():
        assert said in page
        page = page.replace(said, small)
    ran = read(page)
    assert [line.split()[1] for line in ran] == ["search", "compare", "search"]
    assert len(list(tmp_path.glob("runs/rates/trial-*/0/config.yaml"))) == 2


def test_the_guide_names_every_key_of_a_search() -> None:
    assert not [name for name in SearchConfig.__dataclass_fields__ if name not in GUIDE]
    assert not [name for name in ("low", "high", "log", "step") if name not in Range.__dataclass_fields__]
    assert not [name for name in ("low", "high", "log", "step") if f"`{name}" not in GUIDE]
    assert f"`startup` trials ({SearchConfig().startup})" in " ".join(GUIDE.split())
