"""What values an option may have, said where the option stands, and checked here for all of them.

    @dataclass
    class Config:
        rates: list[float] = option([1.0, 2.0], each(above(0, 1000)))

A plugin's `Config` uses the same functions: its options are checked before the component is built.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from cogvid.errors import UserError

_ALLOWED = "cogvid.allowed"
# Numbers from here on are slips of the finger; torch has no sizes so large.
_HUGE = 2**31


@dataclass(frozen=True)
class Allowed:
    """What values an option may have.

    Attributes:
        words: behind "it must be".
        test: whether a value of the option's type is one of them.
        none: whether None is one, too, where the option's type has it.
    """

    words: str
    test: Callable[[Any], bool]
    none: bool = True


def at_least(low: float) -> Allowed:
    """Numbers from `low` on, below 2^31."""
    return Allowed(f"at least {low} and below 2^31", lambda value: low <= value < _HUGE)


def above(low: float, most: float) -> Allowed:
    """Numbers above `low`, up to `most`."""
    return Allowed(f"above {low} and at most {most}", lambda value: low < value <= most)


def between(low: float, high: float) -> Allowed:
    """Numbers from `low` to `high`, both included."""
    return Allowed(f"from {low} to {high}", lambda value: low <= value <= high)


def from_to_below(low: float, high: float) -> Allowed:
    """Numbers from `low` on, below `high`."""
    return Allowed(f"at least {low} and below {high}", lambda value: low <= value < high)


def one_of(*values: Any) -> Allowed:
    """These values."""
    return Allowed(" or ".join(map(repr, values)), lambda value: value in values)


def not_blank() -> Allowed:
    """Text that has more than spaces."""
    return Allowed("text that is not empty", lambda value: bool(value.strip()))


def file_name() -> Allowed:
    """Paths that a file system takes."""

    def test(value: str) -> bool:
        return bool(value.strip()) and "\0" not in value and all(len(part.encode()) < 256 for part in value.split("/"))

    return Allowed("the path of a file or folder, its parts shorter than 256 bytes", test)


def each(allowed: Allowed, *, count: int | None = None, least: int = 1) -> Allowed:
    """Lists whose every value is allowed.

    Args:
        allowed: of each value.
        count: how many there must be.
        least: how many there must be at least, where `count` does not say.
    """
    amount = f"{count} values" if count is not None else f"{least} or more values" if least else "values"

    def test(values: Sequence[Any]) -> bool:
        enough = len(values) >= least if count is None else len(values) == count
        return enough and all(map(allowed.test, values))

    return Allowed(f"a list of {amount}, each {allowed.words}", test)


def option(default: Any, allowed: Allowed) -> Any:
    """A field of a configuration dataclass, with the values it may have; None is allowed where the type has it.

    Args:
        default: of the field; each instance gets a copy of its own. `omegaconf.MISSING` for an option that must be set.
        allowed: what else it may be.
    """
    return field(default_factory=lambda: copy.copy(default), metadata={_ALLOWED: allowed})


def check_ranges(config: Any, key: str, sources: Mapping[str, str], what: str = "it") -> None:
    """Hold the values of a configuration, and of the configurations in it, to what they may be.

    Args:
        config: an instance of a dataclass, all of its values of the right type.
        key: its full key; "" for an experiment.
        sources: where each full key got its value, for messages.
        what: an option is called in messages.

    Raises:
        UserError: a value is out of its range; the message names where it was said, its key and the range.
    """
    for entry in fields(config):
        value, full_key = getattr(config, entry.name), f"{key}.{entry.name}" if key else entry.name
        allowed: Allowed | None = entry.metadata.get(_ALLOWED)
        if is_dataclass(value):
            check_ranges(value, full_key, sources, what)
        elif allowed is not None and not _passes(value, allowed):
            raise UserError(f"{said(full_key, sources)}{full_key}: {what} must be {allowed.words}, got {value!r}.")


def _passes(value: Any, allowed: Allowed) -> bool:
    if value is None and allowed.none:
        return True
    try:
        return allowed.test(value)
    except (TypeError, AttributeError):
        return False  # OmegaConf takes a list in a list for a number in it


def said(key: str, sources: Mapping[str, str] | None) -> str:
    """`file:line: ` of what gave a key, or a key below it, its value; empty where nothing is known."""
    known = sources or {}
    below = (name for name in known if name.startswith(f"{key}."))
    source = known.get(key) or known.get(next((name for name in below if known[name] != "default"), ""))
    return f"{source}: " if source and source != "default" else ""
