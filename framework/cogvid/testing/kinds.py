"""One way into the suites of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cogvid.config.options import nearest
from cogvid.errors import UserError
from cogvid.interfaces.component import Kind
from cogvid.testing.attention import attention_conformance
from cogvid.testing.data_source import data_source_conformance
from cogvid.testing.decoding import decoding_conformance
from cogvid.testing.frame_rate import frame_rate_conformance
from cogvid.testing.frame_tokenizer import frame_tokenizer_conformance
from cogvid.testing.interpolation import interpolation_conformance
from cogvid.testing.metric import metric_conformance
from cogvid.testing.text_tokenizer import text_tokenizer_conformance

SUITES: dict[Kind, Callable[..., None]] = {
    "attention": attention_conformance,
    "frame_rate": frame_rate_conformance,
    "interpolation": interpolation_conformance,
    "data": data_source_conformance,
    "frame_tokenizer": frame_tokenizer_conformance,
    "text_tokenizer": text_tokenizer_conformance,
    "decoding": decoding_conformance,
    "metric": metric_conformance,
}


def conformance(
    kind: Kind, name: str, options: Mapping[str, Any] | None = None, *, plugins: Sequence[str] = (), **settings: Any
) -> None:
    """Hold a component to its interface, by the suite of its kind.

    Args:
        kind: one of `cogvid.interfaces.component.KINDS`.
        name: the registered name.
        options: values for the fields of its `Config`.
        plugins: modules or ./files.py to load beside the installed plugins.
        settings: what else the suite takes, such as `grids` of that of attention.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first case.
        UserError: there is no such kind or component, or it cannot work here.
    """
    if kind not in SUITES:
        raise UserError(f"There is no kind of component {kind!r}.{nearest(kind, SUITES)}")
    SUITES[kind](name, options, plugins=plugins, **settings)
