"""What every component that a plugin registers has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

Kind = Literal[
    "attention", "frame_rate", "interpolation", "data", "frame_tokenizer", "text_tokenizer", "decoding", "metric"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class ComponentClass(Protocol):
    """A class that a plugin registers: built from its own nested, checked `Config` dataclass."""

    Config: ClassVar[type]

    def __call__(self, config: Any) -> Any: ...


class Component:
    """Base of the components that hold no tensors.

    A subclass overrides the nested `Config` dataclass with its options, their defaults and, where they have one, their
    ranges (`cogvid.config.ranges.option`); the options of an experiment are checked against it before the component is
    built.
    """

    @dataclass
    class Config:
        """No options."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config
