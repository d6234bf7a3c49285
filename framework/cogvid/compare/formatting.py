"""Values as text, the same in the terminal and in the report."""

from __future__ import annotations

import math

from cogvid.compare.summary import Row, Variant

NO_VALUE = "-"
# Of losses the last digits are what variants differ in.
_DECIMALS = {"nats": 4, "dB": 2}
ARROWS = {"higher": "↑", "lower": "↓", None: ""}


def title(row: Row) -> str:
    """What a row shows: its name, the unit unless the values say it, its protocol's letter where there are several, and
    which way is better."""
    letter = f"[{row.protocol}]" if row.protocol else ""
    unit = f"({row.unit})" if row.unit in _DECIMALS else ""
    return " ".join(part for part in (row.title, unit, letter, ARROWS[row.better]) if part)


def value(row: Row, index: int, variant: Variant) -> str:
    """Mean and spread of a variant; says of how many seeds where it is not all of them."""
    found = row.values[index]
    if found is None:
        return NO_VALUE
    text = _number(found.mean, row)
    if found.spread is not None and (found.spread or not row.unit):
        text += f" ± {_number(found.spread, row)}"
    expected = len(variant.runs) if row.group in ("cost", "held_out") else _scored(variant)
    return text if found.seeds == expected else f"{text} (n={found.seeds})"


def difference(row: Row, index: int) -> str:
    """The signed difference to the first variant; empty where there is none to show."""
    found = row.difference(index)
    if found is None or (row.unit and not found):
        return ""
    return f"{'-' if found < 0 else '+'}{_number(abs(found), row)}"


def seeds(variant: Variant) -> str:
    """How many seeds a variant has, and how many of them were scored."""
    scored = _scored(variant)
    return str(scored) if scored == len(variant.runs) else f"{scored} of {len(variant.runs)}"


def _scored(variant: Variant) -> int:
    return sum(bool(run.sets) for run in variant.runs)


def _number(number: float, row: Row) -> str:
    if row.unit == "seconds":
        return duration(number)
    if row.unit == "count":
        return count(number)
    return f"{number:,.{_decimals(row)}f}"


def _decimals(row: Row) -> int:
    """Four significant digits of the row's largest value, three below 1, or what its unit always has: one precision in
    the whole row."""
    if row.unit in _DECIMALS:
        return _DECIMALS[row.unit]
    largest = max((abs(found.mean) for found in row.values if found), default=0.0)
    if largest == 0:
        return 3
    exponent = math.floor(math.log10(largest))
    return max(0, 3 - exponent if exponent >= 0 else 2 - exponent)


def count(number: float) -> str:
    """Large counts in millions or billions."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
