"""From runs to a comparison: seeds averaged and paired, and never two protocols in one column.

Which differences are judged is fixed before anybody has seen a value: those of the columns that their metrics declare
as headline (of all columns where none does), if they have a direction and no caution. Holm's correction runs over all
of them together. The other columns have intervals and p values for who wants to look further, and no verdict: every
further test costs the headline its power, and dozens of columns that repeat each other would decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from cogvid.compare.budget import budget_notes
from cogvid.compare.columns import Gathered, Gathering, Place
from cogvid.compare.comparison import Cell, Column, Comparison, Difference, Row, Trouble, Verdict
from cogvid.compare.quantities import interrupted
from cogvid.compare.read import RunRecord
from cogvid.compare.statistics import LEVEL, Estimate, holm, paired
from cogvid.compare.variants import NAMES, Variant, differences, variants_of
from cogvid.config.options import nearest
from cogvid.errors import UserError

# From the best to the worst, as a reader expects them; a plugin's own floors stand before the last.
_BOUNDS = ("real", "reconstruction", "linear", "hold")


def compare(runs: Sequence[RunRecord], baseline: str | None = None) -> Comparison:
    """Set runs side by side.

    Args:
        runs: in the order in which their variants are shown, missing ones included.
        baseline: the label of the variant that the others are compared with; by default the first one that has a
            score or a held-out loss.

    Raises:
        UserError: there is no such variant, or one hash of a protocol stands for two.
    """
    variants = variants_of([run for run in runs if not run.missing])
    gathering = Gathering(variants)
    columns = gathering.columns()
    cells = _cells(columns, gathering.gathered)
    scored = _scored(variants, columns, cells)
    baseline = _baseline(scored, baseline)
    _judge(cells, columns, baseline)
    rows = [
        Row(v.label, "variant", _row(cells, v.label), v.runs, number, v.base, v.swept)
        for number, v in enumerate(variants)
    ]
    taken = {row.label for row in rows}
    rows += [
        Row(f"{name} (bound)" if name in taken else name, "bound", cells["bound", name]) for name in _bounds(cells)
    ]
    return Comparison(
        columns=tuple(columns),
        rows=tuple(rows),
        baseline=baseline,
        protocols=gathering.protocols,
        splits=gathering.splits(),
        undetermined=gathering.undetermined,
        config=differences(variants, lambda run: run.config, NAMES),
        environment=differences(variants, lambda run: run.environment),
        troubles=tuple(_troubles(runs)),
        notes=tuple(_notes(variants, scored, baseline, columns, cells)),
    )


def _scored(
    variants: Sequence[Variant], columns: Sequence[Column], cells: dict[Place, dict[str, Cell]]
) -> dict[str, set[int]]:
    """The seeds of each variant that have a score or a held-out loss."""
    keys = {column.key for column in columns if column.group != "cost"}
    return {
        v.label: {seed for key, cell in _row(cells, v.label).items() if key in keys for seed in cell.seeds}
        for v in variants
    }


def _baseline(scored: dict[str, set[int]], wanted: str | None) -> str:
    """The variant asked for, or the first one with which anything can be compared."""
    if wanted is None:
        return next(iter([*(label for label, seeds in scored.items() if seeds), *scored]), "")
    if wanted not in scored:
        raise UserError(f"--baseline: no variant is called {wanted!r} here.{nearest(wanted, scored)}")
    return wanted


def _row(cells: dict[Place, dict[str, Cell]], label: str) -> dict[str, Cell]:
    """Of a variant; empty where nothing was measured."""
    return cells.get(("variant", label), {})


def _cells(columns: Sequence[Column], gathered: Sequence[Gathered]) -> dict[Place, dict[str, Cell]]:
    cells: dict[Place, dict[str, Cell]] = {}
    for column, found in zip(columns, gathered, strict=True):
        for place in found.values:
            cell = found.cell(place)
            if cell is not None:
                cells.setdefault(place, {})[column.key] = cell
    return cells


def _bounds(cells: Iterable[Place]) -> list[str]:
    found = sorted(name for kind, name in cells if kind == "bound")
    return sorted(found, key=lambda name: _BOUNDS.index(name) if name in _BOUNDS else len(_BOUNDS) - 1.5)


def _judge(cells: dict[Place, dict[str, Cell]], columns: Sequence[Column], baseline: str) -> None:
    """Give the cells of variants their differences, corrected over all that are judged."""
    compared = _row(cells, baseline)
    found: dict[tuple[Place, str], Estimate] = {}
    for place, row in cells.items():
        if place[0] == "variant" and place[1] != baseline:
            for key in row.keys() & compared.keys():
                if estimate := paired(row[key].seeds, compared[key].seeds):
                    found[place, key] = estimate
    by_key = {column.key: column for column in columns}
    tests = {where: each.p for where, each in found.items() if by_key[where[1]].judged and each.p is not None}
    corrected = dict(zip(tests, holm([*tests.values()]), strict=True))
    for (place, key), each in found.items():
        p = corrected.get((place, key))
        verdict = _verdict(by_key[key], each, p)
        difference = Difference(each.mean, each.interval, each.count, each.p, p, verdict)
        cells[place][key] = replace(cells[place][key], difference=difference)


def _verdict(column: Column, difference: Estimate, corrected: float | None) -> Verdict:
    if not column.judged:
        return "not judged"
    if difference.count < 2:
        return "one seed"
    if corrected is None or corrected >= LEVEL:
        return "undecided"
    return "better" if (difference.mean > 0) == (column.better == "higher") else "worse"


def _troubles(runs: Sequence[RunRecord]) -> Iterator[Trouble]:
    for run in runs:
        name = f"{run.experiment}/{run.variant}/{run.seed}" if run.experiment else str(run.folder)
        if run.missing and not run.ended:
            yield Trouble(name, "missing: the experiment lists it, and it was not begun")
        elif run.ended or run.lacks:
            lacks = f"lacks {', '.join(run.lacks)}" if run.lacks else ""
            yield Trouble(name, "; ".join(part for part in (run.ended, lacks) if part))


def _notes(
    variants: Sequence[Variant],
    scored: dict[str, set[int]],
    baseline: str,
    columns: Sequence[Column],
    cells: dict[Place, dict[str, Cell]],
) -> Iterator[str]:
    yield from budget_notes(variants)
    for variant in variants:
        differing = differences([variant], lambda run: run.config, NAMES)
        if differing:
            yield f"The seeds of {variant.label} differ in more than the seed: {', '.join(differing)}."
    first = next(iter(scored), "")
    if baseline != first and not scored[first]:
        yield f"{first} has no scores, so the others are compared with {baseline}."
    for label, seeds in scored.items():
        alone = sorted(seeds ^ scored[baseline])
        if alone and seeds & scored[baseline]:
            left = ", ".join(map(str, alone))
            yield f"Differences of {label} leave out the seeds that only one of it and {baseline} has: {left}."
        elif alone and seeds:
            yield f"{label} and {baseline} have no seed in common, so there is no difference between them."
    verdicts = {
        column.title: {d.verdict for row in cells.values() if column.key in row and (d := row[column.key].difference)}
        for column in columns
    }
    single = [title for title, found in verdicts.items() if "one seed" in found]
    if single:
        tested = any(found & {"better", "worse", "undecided"} for found in verdicts.values())
        which = f" of {', '.join(single)}" if tested else ""
        yield f"One seed: no verdict{which}. Differences of a single pair say nothing about other seeds."
    for column in columns:
        if column.caution:
            yield f"{column.title}: {column.caution}"
    resumed = [v.label for v in variants if any(interrupted(run) for run in v.runs)]
    if resumed:
        yield f"Training was interrupted and resumed, so how long it took is unknown: {', '.join(resumed)}."
    dirty = [v.label for v in variants if any(run.environment.get("git_dirty") for run in v.runs)]
    if dirty:
        yield f"Run from a checkout with uncommitted changes: {', '.join(dirty)}."
