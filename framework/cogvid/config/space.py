"""What a search may set an experiment's options to: numbers from a range, or choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from difflib import get_close_matches
from typing import Any, get_origin

from cogvid.config.check import known_keys, types_below, without_none
from cogvid.config.options import nearest
from cogvid.config.ranges import said
from cogvid.config.schema import ExperimentConfig
from cogvid.errors import UserError

_SPACE = "search.space"
# They name runs, or say which there are.
_NOT_SEARCHED = ("name", "description", "variant", "seed", "seeds", "plugins", "search")
_RANGE = ("low", "high", "log", "step")
# Values of a stepped range that are listed one by one.
_MOST = 32


@dataclass(frozen=True)
class Choices:
    """Values that an option may have.

    Attributes:
        key: the option's full one; of a part of the experiment, each value names a fragment, as on the command line.
    """

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """Numbers that an option may have, both ends included.

    Attributes:
        key: the option's full one.
        low, high: whole numbers where the option is one.
        log: draw the logarithm evenly, not the number.
        step: between numbers, from `low` on; None for all.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether all of them are whole numbers."""
        return isinstance(self.low, int)

    @property
    def values(self) -> tuple[float, ...]:
        """All values where they are few, otherwise the two ends."""
        step = self.step or (1 if self.whole else None)
        steps = 0 if step is None else round((self.high - self.low) / step)
        if step is None or steps >= _MOST:
            return self.low, self.high
        return tuple(self.low + number * step for number in range(steps + 1))


Dimension = Choices | Range


def dimensions(space: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> list[Dimension]:
    """The options that a search varies, in the order of the file.

    Args:
        space: `search.space`, its keys nested as an experiment's.
        sources: where each full key got its value, for messages.

    Raises:
        UserError: a key is none of an experiment, or what it says is neither choices nor a range; the message says
            where. Whether an option may have the values is not looked at.
    """
    if not space:
        raise UserError(
            f"{said('search', sources)}{_SPACE}: nothing is to be searched; name options with their values, such as "
            "stages.sequential.muon_lr: {low: 1e-3, high: 3e-2, log: true}."
        )
    return list(_below(space, ExperimentConfig, "", sources))


def _below(tree: Mapping[str, Any], expected: Any, key: str, sources: Mapping[str, str] | None) -> Iterator[Dimension]:
    types = types_below(expected, tree)
    for name, value in tree.items():
        full_key = f"{key}.{name}" if key else name
        place = f"{said(f'{_SPACE}.{full_key}', sources)}{_SPACE}: "
        if name not in types:
            raise UserError(f"{place}{full_key} is no option of an experiment.{_guess(full_key, name)}")
        if not key and name in _NOT_SEARCHED:
            raise UserError(f"{place}{full_key} says which runs there are; it cannot be searched.")
        inner = without_none(types[name])[0]
        if isinstance(value, list):
            yield _choices(full_key, value, place)
        elif isinstance(value, dict) and _holds_options(inner, value):
            yield from _below(value, inner, full_key, sources)
        elif isinstance(value, dict) and not is_dataclass(inner):
            yield _range(full_key, value, inner, place)
        else:
            raise UserError(
                f"{place}{full_key} has one value, {value!r}; a search needs choices, such as [32, 64], or a range, "
                "such as {low: 1e-3, high: 3e-2, log: true}."
            )


def _holds_options(expected: Any, value: Mapping[str, Any]) -> bool:
    """Whether a mapping is of keys below this one, and no range."""
    if is_dataclass(expected) or get_origin(expected) is dict:
        return bool(value)
    # Of the options of components nobody knows the types here.
    return expected is Any and bool(value) and not value.keys() & {"low", "high"}


def _guess(full_key: str, name: str) -> str:
    known = list(known_keys(ExperimentConfig))
    ends = [other for other in known if other.endswith(f".{name}")]
    guesses = list(dict.fromkeys([*get_close_matches(full_key, known, n=1), *ends]))
    hint = f" Did you mean {' or '.join(guesses)}?" if guesses else ""
    return f"{hint} Write the full key, such as model.width; `cogvid config EXPERIMENT` shows all."


def _choices(key: str, values: Sequence[Any], place: str) -> Choices:
    different = [value for number, value in enumerate(values) if not _among(value, values[:number])]
    if not values or len(different) < len(values):
        raise UserError(f"{place}{key} needs choices that differ, one or more, got {values!r}.")
    return Choices(key, tuple(values))


def _among(value: Any, others: Sequence[Any]) -> bool:
    """As text, since true is no number, and 1 no 1.0."""
    return repr(value) in map(repr, others)


def _range(key: str, value: Mapping[str, Any], expected: Any, place: str) -> Range:
    if expected not in (int, float, Any):
        raise UserError(f"{place}{key} is no number: give a list of choices.")
    for name in value:
        if name not in _RANGE:
            raise UserError(f"{place}{key}: a range has no {name!r}.{nearest(name, _RANGE)}")
    parts: tuple[Any, ...] = tuple(value.get(name) for name in _RANGE)
    low, high, log, step = parts
    numbers = [low, high] if step is None else [low, high, step]
    if not all(type(number) in (int, float) for number in numbers):
        raise UserError(f"{place}{key}: a range needs numbers for low and high, and for step if it has one.")
    whole = expected is int or (expected is Any and all(type(number) is int for number in numbers))
    if whole and not all(type(number) is int for number in numbers):
        raise UserError(f"{place}{key} is a whole number: so must be low, high and step.")
    if not -(2**63) < low < high < 2**63:
        raise UserError(f"{place}{key}: low must be less than high, got {low} and {high}.")
    if log not in (None, True, False):
        raise UserError(f"{place}{key}: log must be true or false, got {log!r}.")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{place}{key}: a range with log: true has low above 0 and no step.")
    if step is not None and (step <= 0 or abs((high - low) / step - round((high - low) / step)) > 1e-6):
        raise UserError(f"{place}{key}: step {step} does not lead from {low} to {high}.")
    kind = int if whole else float
    return Range(key, kind(low), kind(high), bool(log), None if step is None else kind(step))
