"""What a comparison is: variants down, quantities across, and never two protocols in one column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from cogvid.compare.read import RunRecord

# As in `cogvid.interfaces.metric`, which a table does without: it imports torch.
Better = Literal["higher", "lower"]
Group = Literal["quality", "held_out", "cost"]
Verdict = Literal["better", "worse", "undecided", "one seed", "not judged"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """One quantity under one protocol.

    Attributes:
        key: names it in JSON and CSV, and in the report's addresses; unique.
        group: quality of the videos, held-out loss, or cost.
        title: its head, with the protocol's letter where the quantity has several.
        text: one line that explains it.
        unit: as `Meaning.unit`; `count`, `seconds` and `tokens/s` for costs.
        better: which direction is an improvement; None where it has none, or may not be judged.
        headline: whether it is always shown.
        protocol: the hash of it; empty for what has none.
        caution: why a value here says less than it seems to, if so; nothing in such a column is called better.
        judged: whether its differences are; see `cogvid.compare.summary`.
    """

    key: str
    group: Group
    title: str
    text: str
    unit: str = ""
    better: Better | None = None
    headline: bool = False
    protocol: str = ""
    caution: str = ""
    judged: bool = False


@dataclass(frozen=True)
class Difference:
    """Of a variant to the baseline, over the seeds that both have.

    Attributes:
        mean: of the differences seed by seed.
        interval: of 95%, by Student's t; None with fewer than two pairs, and where all pairs differ by the same: that
            shows no spread to hold the difference against.
        pairs: seeds.
        p: two-sided, before the correction; None where there is no interval.
        corrected: by Holm, over all differences of the comparison that are judged; None for the others.
        verdict: better or worse only where the corrected p is below 0.05; `not judged` where the column is not.
    """

    mean: float
    interval: Interval | None
    pairs: int
    p: float | None
    corrected: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Cell:
    """A quantity of a variant, or of a bound.

    Attributes:
        seeds: every seed's value; of a bound, which every variant has, the mean over variants.
        mean: of them; of a bound over all runs.
        interval: of 95% over seeds, by Student's t; None for one seed, and where all seeds have the same value.
        error: the metric's own standard error where there is one seed, if it gives one.
        difference: to the baseline; None for the baseline, for bounds, and where there is no seed in common.
    """

    seeds: dict[int, float]
    mean: float
    interval: Interval | None = None
    error: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Row:
    """A variant, or a floor or ceiling: what stands between `real` and `hold` can be read off at once.

    Attributes:
        label: the shortest that tells it from the others; of a variant made by a sweep, the values of its keys.
        kind: a variant, or a bound, which is shown muted.
        cells: by `Column.key`; a quantity that was not measured is missing.
        runs: of a variant, one for each seed; none of a bound.
        colour: number of the variant among all, for charts; None for a bound.
        base: the label without what a sweep changed.
        swept: of a variant made by a sweep, its keys with their values.
    """

    label: str
    kind: Literal["variant", "bound"]
    cells: dict[str, Cell]
    runs: tuple[RunRecord, ...] = ()
    colour: int | None = None
    base: str = ""
    swept: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """A run that failed, is missing, or lacks something.

    Attributes:
        run: experiment/variant/seed.
        cause: in words: what it ended with, or what it lacks.
    """

    run: str
    cause: str


@dataclass(frozen=True)
class Comparison:
    """Variants side by side.

    Attributes:
        columns: in the order in which they are shown.
        rows: the variants in the order of the experiment file, those of sweeps behind them by value, then the bounds,
            the best first.
        baseline: the label of the variant that the others are compared with.
        protocols: what each hash stands for.
        splits: for each measure with several protocols, the letter of each, and the keys in which they differ with
            the value under each.
        undetermined: titles of what was measured and has no value in any run.
        config: configuration keys that differ, with the value of each variant.
        environment: the same for the environments.
        troubles: of runs.
        notes: what a reader must know before believing the numbers.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    baseline: str
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    undetermined: tuple[str, ...] = ()
    config: dict[str, tuple[str, ...]] = field(default_factory=dict)
    environment: dict[str, tuple[str, ...]] = field(default_factory=dict)
    troubles: tuple[Trouble, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def variants(self) -> tuple[Row, ...]:
        """The rows that are variants."""
        return tuple(row for row in self.rows if row.kind == "variant")

    @property
    def bounds(self) -> tuple[Row, ...]:
        """The other ones."""
        return tuple(row for row in self.rows if row.kind == "bound")


@dataclass(frozen=True)
class Split:
    """Protocols of one quantity.

    Attributes:
        letters: of the protocols, A first.
        keys: those in which they differ, with the value under each letter.
    """

    letters: tuple[str, ...]
    keys: dict[str, tuple[str, ...]]
