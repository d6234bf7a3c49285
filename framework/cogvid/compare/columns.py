"""Gathers measurements into columns, a quantity under one protocol each, and says in what protocols differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cogvid.compare.comparison import Cell, Column, Split
from cogvid.compare.equal_tokens import equal_tokens
from cogvid.compare.held_out import HeldOutSequences
from cogvid.compare.quantities import NOT_RECORDED, Measurement, Quantity, measurements, record_hash
from cogvid.compare.statistics import estimate
from cogvid.compare.variants import Variant, as_text
from cogvid.errors import UserError

# A row of the table: what kind of row, and its label.
Place = tuple[Literal["variant", "bound"], str]
_GROUPS = ("quality", "held_out", "cost")


@dataclass
class Gathered:
    """All values of one quantity under one protocol.

    Attributes:
        protocol: its hash.
        values: by row and seed; of a bound, those of every variant that has it.
        errors: by row, the metric's own for each value.
        cautions: all that were given.
    """

    quantity: Quantity
    protocol: str
    values: dict[Place, dict[int, list[float]]] = field(default_factory=dict)
    errors: dict[Place, list[float | None]] = field(default_factory=dict)
    cautions: dict[str, None] = field(default_factory=dict)

    def add(self, place: Place, seed: int, found: Measurement) -> None:
        """Take a value in."""
        if found.value is not None:
            self.values.setdefault(place, {}).setdefault(seed, []).append(found.value)
            self.errors.setdefault(place, []).append(found.error)
        if found.caution:
            self.cautions[found.caution] = None

    def cell(self, place: Place) -> Cell | None:
        """Of a row; None where it has no value."""
        if place not in self.values:
            return None
        seeds = {seed: statistics.fmean(values) for seed, values in sorted(self.values[place].items())}
        mean = statistics.fmean(value for values in self.values[place].values() for value in values)
        errors = self.errors[place]
        return Cell(seeds, mean, estimate([*seeds.values()]).interval, errors[0] if len(errors) == 1 else None)


class Gathering:
    """Everything that was measured in some variants.

    Attributes:
        gathered: columns that have a value, in the order in which they are shown.
        protocols: what each hash stands for.
        undetermined: titles of what was measured and has no value anywhere.

    Raises:
        UserError: one hash stands for two protocols.
    """

    def __init__(self, variants: Iterable[Variant]) -> None:
        self.protocols: dict[str, dict[str, Any]] = {}
        found: dict[Quantity, dict[str, Gathered]] = {}
        variants = [*variants]
        sequences = HeldOutSequences(variants)
        for variant in variants:
            for run in variant.runs:
                for each in measurements(run):
                    if each.quantity.group == "held_out":
                        record = sequences.record(each.quantity.of, variant.label, each.record)
                        each = replace(each, record=record, protocol=record_hash(record))
                    if self.protocols.setdefault(each.protocol, each.record) != each.record:
                        raise UserError(
                            f"{run.folder}: the protocol {each.protocol} of {each.quantity.title} is not what another "
                            "run says it is: one of the files was edited. Evaluate both again with `cogvid evaluate`."
                        )
                    under = found.setdefault(each.quantity, {})
                    column = under.setdefault(each.protocol, Gathered(each.quantity, each.protocol))
                    column.add(("bound", each.bound) if each.bound else ("variant", variant.label), run.seed, each)
        for variant, run, each in equal_tokens(variants):
            column = found.setdefault(each.quantity, {}).setdefault("", Gathered(each.quantity, ""))
            column.add(("variant", variant.label), run.seed, each)
        self.protocols.pop("", None)
        in_order = sorted(found, key=lambda quantity: (_GROUPS.index(quantity.group), quantity.of == "key_frames"))
        columns = [column for quantity in in_order for column in found[quantity].values()]
        self.gathered = [column for column in columns if column.values]
        determined = {column.quantity for column in self.gathered}
        self.undetermined = tuple(quantity.title for quantity in in_order if quantity not in determined)
        self._letters: dict[str, dict[str, str]] = {}
        for column in self.gathered:
            hashes = self._letters.setdefault(column.quantity.measure, {})
            hashes.setdefault(column.protocol, _letter(len(hashes)))

    def columns(self) -> list[Column]:
        """A column for each of `gathered`."""
        headline = any(column.quantity.headline and column.quantity.better for column in self.gathered)
        return [self._column(column, headline) for column in self.gathered]

    def splits(self) -> dict[str, Split]:
        """Of the measures with several protocols, in what they differ."""
        return {
            measure: _split(list(letters.values()), [self.protocols.get(key, {}) for key in letters])
            for measure, letters in self._letters.items()
            if measure and len(letters) > 1
        }

    def _column(self, found: Gathered, headline: bool) -> Column:
        quantity, caution = found.quantity, " ".join(found.cautions)
        letters = self._letters[quantity.measure]
        letter = letters[found.protocol] if len(letters) > 1 and found.protocol else ""
        judged = quantity.judged and quantity.better is not None
        return Column(
            key=f"{quantity.key}.{letter}" if letter else quantity.key,
            group=quantity.group,
            title=f"{quantity.title} [{letter}]" if letter else quantity.title,
            text=quantity.text,
            unit=quantity.unit,
            better=quantity.better,
            headline=quantity.headline,
            protocol=found.protocol,
            caution=caution,
            judged=judged and not caution and (quantity.headline or not headline),
        )


def _letter(index: int) -> str:
    """A for the first, AA behind Z."""
    rest, last = divmod(index, 26)
    return (_letter(rest - 1) if rest else "") + chr(ord("A") + last)


def _split(letters: Sequence[str], protocols: Sequence[dict[str, Any]]) -> Split:
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    values = {key: tuple(as_text(protocol.get(key, NOT_RECORDED)) for protocol in protocols) for key in keys}
    return Split(tuple(letters), {key: found for key, found in values.items() if len(set(found)) > 1})
