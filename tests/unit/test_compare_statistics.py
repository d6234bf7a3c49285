"""What seeds allow to say: intervals, pairs, and how often a table that shows nothing claims something."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cogvid.compare import Comparison, compare, find_runs
from cogvid.compare.comparison import Difference
from cogvid.compare.statistics import estimate, holm, paired

MakeRun = Callable[..., Path]


def difference_of(comparison: Comparison, title: str, variant: int = 1) -> Difference:
    (column,) = (column for column in comparison.columns if column.title == title)
    found = comparison.variants[variant].cells[column.key].difference
    assert found is not None
    return found


def test_the_interval_is_student_s_and_the_test_is_scipy_s_for_pairs() -> None:
    values, baseline = [1.0, 2.5, 2.0, 4.0], [0.5, 1.0, 2.5, 1.0]
    found = paired(dict(enumerate(values)), dict(enumerate(baseline)))
    expected = stats.ttest_rel(values, baseline)
    assert found is not None
    assert found.interval is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    # t of two degrees of freedom is 4.3027.
    assert estimate([1.0, 2.0, 3.0]).interval == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3))
    )


def test_only_seeds_that_both_have_are_paired() -> None:
    found = paired({0: 1.0, 1: 5.0, 7: 100.0}, {1: 4.0, 0: 2.0, 3: -100.0})
    assert found is not None
    assert (found.mean, found.count) == (0.0, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0], [0.0, 0.0], [0.3, 0.1 + 0.2, 0.3]])
def test_values_without_a_spread_have_no_interval_and_no_test(values: list[float]) -> None:
    found = estimate(values)
    assert (found.interval, found.p, found.count) == (None, None, len(values))


def test_differences_that_only_rounding_tells_apart_show_no_spread() -> None:
    found = paired({0: 1000.1, 1: 2000.1, 2: 3000.1}, {0: 1000.0, 1: 2000.0, 2: 3000.0})
    assert found is not None
    assert found.interval is None


def test_holm_s_correction_is_that_of_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_table_of_nothing_but_noise_claims_something_one_time_in_twenty_at_most(seeds: int) -> None:
    columns, variants, tables = 20, 3, 2000
    noise = np.random.default_rng(seeds).normal(size=(tables, columns, variants + 1, seeds))
    # Seeds differ from each other by more than variants do: what is paired must fall out.
    noise += 10 * np.random.default_rng(9).normal(size=(tables, columns, 1, seeds))
    false = uncorrected = 0
    for table in noise:
        tests = [
            paired(dict(enumerate(variant)), dict(enumerate(rows[0])))
            for rows in table.tolist()
            for variant in rows[1:]
        ]
        ps = [test.p for test in tests if test is not None and test.p is not None]
        assert len(ps) == columns * variants
        false += min(holm(ps)) < 0.05
        uncorrected += min(ps) < 0.05
    error = math.sqrt(0.05 * 0.95 / tables)
    assert false / tables <= 0.05 + 2 * error
    assert uncorrected / tables > 0.5


def test_a_difference_that_every_seed_shows_is_called_by_the_direction_of_its_metric(
    make_run: MakeRun, tmp_path: Path
) -> None:
    for seed in range(3):
        make_run("naive", seed, fvd=100.0 + 30 * seed, accuracy=0.5 + 0.1 * seed)
        make_run("other", seed, fvd=120.0 + 30 * seed + 0.1 * seed, accuracy=0.6 + 0.1 * seed + 0.001 * seed)
    comparison = compare(find_runs([tmp_path / "study"]))
    worse, better = difference_of(comparison, "FVD (shapes3d)"), difference_of(comparison, "accuracy")
    assert (worse.verdict, better.verdict) == ("worse", "better")
    assert worse.mean == pytest.approx(20.1)
    for found in (worse, better):
        assert found.interval is not None
        assert found.p is not None
        assert found.corrected is not None
        assert found.interval[0] > 0
        assert found.p <= found.corrected < 0.05
    assert max(worse.corrected or 0, better.corrected or 0) == max(worse.p or 0, better.p or 0)


def test_seeds_that_disagree_decide_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    for seed, change in enumerate((30.0, 20.0, -5.0)):
        make_run("naive", seed, fvd=100.0)
        make_run("other", seed, fvd=100.0 + change)
    found = difference_of(compare(find_runs([tmp_path / "study"])), "FVD (shapes3d)")
    assert (found.mean, found.verdict) == (15.0, "undecided")


def test_one_seed_gives_no_verdict_however_large_the_difference(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("naive", fvd=1.0)
    make_run("other", fvd=1e6)
    comparison = compare(find_runs([tmp_path / "study"]))
    found = difference_of(comparison, "FVD (shapes3d)")
    assert (found.verdict, found.interval, found.p, found.pairs) == ("one seed", None, None, 1)
    assert any(note.startswith("One seed: no verdict") for note in comparison.notes)


def test_the_same_difference_in_every_pair_is_no_evidence_of_a_spread(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in range(3):
        make_run("naive", seed, fvd=100.0)
        make_run("other", seed, fvd=50.0)
    comparison = compare(find_runs([tmp_path / "study"]))
    found = difference_of(comparison, "FVD (shapes3d)")
    assert (found.verdict, found.p, found.interval) == ("undecided", None, None)
    assert comparison.variants[0].cells["generated.fvd.fvd"].interval is None


def test_the_correction_counts_the_headline_of_all_variants_and_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        for variant in ("naive", "one", "two"):
            make_run(variant, seed, fvd=float(random.normal()), accuracy=float(random.random()))
    comparison = compare(find_runs([tmp_path / "study"]))
    assert [column.title for column in comparison.columns if column.judged] == ["FVD (shapes3d)", "accuracy"]
    found = [cell.difference for row in comparison.variants for cell in row.cells.values() if cell.difference]
    corrected = [each for each in found if each.corrected is not None]
    assert len(corrected) == 4
    least = min(corrected, key=lambda each: each.p or 1)
    assert least.corrected == pytest.approx(min(1, 4 * (least.p or 1)))
    path = difference_of(comparison, "path error")
    assert path.p is not None
    assert path.verdict == "not judged"


def test_without_a_headline_every_column_with_a_direction_is_judged(make_run: MakeRun, tmp_path: Path) -> None:
    meanings = {"fvd": {"fvd": {"title": "FVD", "text": "", "better": "lower"}}}
    for variant in ("naive", "other"):
        make_run(variant, meanings=meanings)
    assert [c.key for c in compare(find_runs([tmp_path / "study"])).columns if c.judged] == ["generated.fvd.fvd"]


def test_a_value_with_a_caution_is_never_judged(make_run: MakeRun, tmp_path: Path) -> None:
    few = {"fvd": "128 videos are fewer than 10 times the 512 features."}
    for seed in range(3):
        make_run("naive", seed, fvd=100.0 + seed, cautions=few)
        make_run("other", seed, fvd=10.0 + 1.1 * seed)
    comparison = compare(find_runs([tmp_path / "study"]))
    found = difference_of(comparison, "FVD (shapes3d)")
    assert (found.verdict, found.corrected) == ("not judged", None)
    assert found.interval is not None
    assert comparison.columns[0].caution == few["fvd"]
    assert f"FVD (shapes3d): {few['fvd']}" in comparison.notes


def test_costs_are_never_judged(make_run: MakeRun, tmp_path: Path) -> None:
    for variant in ("naive", "other"):
        for seed in range(3):
            make_run(variant, seed)
    comparison = compare(find_runs([tmp_path / "study"]))
    costs = [column for column in comparison.columns if column.group == "cost"]
    assert {column.title for column in costs} >= {"training time", "tokens per second", "sequential parameters"}
    assert {column.better for column in costs} == {None}
    assert {difference_of(comparison, column.title).verdict for column in costs} == {"not judged"}
