"""What `cogvid compare` says of runs that differ in their decoding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cogvid.compare.charts_frontier import frontiers
from cogvid.compare.read import read_run
from cogvid.compare.report import render
from cogvid.compare.summary import compare

KEY = "generated.tokens.equal"
TOKENS = torch.arange(2 * 3 * 4, dtype=torch.int32).view(2, 3, 4)


@pytest.fixture
def decoded(make_run: Callable[..., Path]) -> Callable[..., Path]:
    """A run whose samples a decoding made, or whose speed was measured beside those of another."""

    def make(
        name: str,
        tokens: Tensor,
        *,
        by: str = "",
        equal: float = 1.0,
        exact: bool = True,
        speed: float = 1,
        seed: int = 0,
    ) -> Path:
        folder: Path = make_run(name, fvd=10 * speed, overrides={"generation.decoding.name": name})
        settings = {"batch_size": 4} if exact else {"batch_size": 4, "decoding": name}
        depends = {"models": {"sequential": "aa"}, "seed": seed, "generation": settings}
        said: dict[str, Any] = {"decoding": {"name": by or name, "exact": exact}, "depends": depends}
        (folder / "samples" / "stage.json").write_text(json.dumps(said))
        save_file({"generated": tokens, "real": tokens.clone()}, folder / "samples" / "tokens.safetensors")
        if by:
            (folder / "speed").mkdir()
            (folder / "speed" / "stage.json").write_text(json.dumps({"equal_tokens": equal}))
        metrics = json.loads((folder / "metrics.json").read_text()) | {"speed": {"tokens_per_second": 1000 * speed}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return make


def test_equal_tokens_are_counted_against_an_exact_decoding_of_the_same_models(decoded: Callable[..., Path]) -> None:
    other = TOKENS.clone()
    other[0, :, 0] = 99
    folders = [
        decoded("exact", TOKENS),
        decoded("faster", TOKENS, by="exact", equal=0.999),
        decoded("rough", other, exact=False, speed=2),
        decoded("elsewhere", other, exact=False, seed=1),
    ]
    comparison = compare([read_run(folder) for folder in folders])
    rows = {row.label: row.cells for row in comparison.variants}
    assert [(column.headline, column.judged) for column in comparison.columns if column.key == KEY] == [(True, False)]
    assert {label: cells[KEY].mean for label, cells in rows.items() if KEY in cells} == {
        "exact": 1.0,
        "faster": 0.999,
        "rough": 0.875,
    }
    # Clips of 0.75 and 1 equal tokens.
    assert rows["rough"][KEY].error == pytest.approx(0.125)


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"cut")])
def test_tokens_that_cannot_be_read_leave_the_cell_empty(
    decoded: Callable[..., Path], damage: Callable[[Path], None]
) -> None:
    folders = [decoded("exact", TOKENS), decoded("rough", TOKENS, exact=False)]
    damage(folders[1] / "samples" / "tokens.safetensors")
    rows = {row.label: row.cells for row in compare([read_run(folder) for folder in folders]).variants}
    assert KEY in rows["exact"]
    assert KEY not in rows["rough"]


def test_runs_of_one_decoding_have_no_such_column(make_run: Callable[..., Path]) -> None:
    comparison = compare([read_run(make_run(name)) for name in ("naive", "local3d")])
    assert KEY not in {column.key for column in comparison.columns}
    assert [frontier.cost for frontier in frontiers(comparison, comparison.columns)] == ["compute"]


def test_the_report_sets_quality_against_generation_time(decoded: Callable[..., Path]) -> None:
    comparison = compare([read_run(decoded("exact", TOKENS)), read_run(decoded("rough", TOKENS, exact=False, speed=2))])
    by_cost = {frontier.cost: frontier for frontier in frontiers(comparison, comparison.columns)}
    assert by_cost["generation time"].taken.values == {"exact": (1.0,), "rough": (0.5,)}
    assert "equal tokens against generation time" in [chart.title for chart in by_cost["generation time"].charts]
    page = render(comparison)
    assert 'href="#generation-time"' in page
    assert 'id="generation-time"' in page
