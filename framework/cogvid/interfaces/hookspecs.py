"""The eight hooks of a plugin. Each returns a mapping from a component's name to its class."""

from __future__ import annotations

import pluggy

from cogvid.interfaces.component import ComponentClass

hookspec = pluggy.HookspecMarker("cogvid")
hookimpl = pluggy.HookimplMarker("cogvid")


@hookspec
def register_attention_backends() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.AttentionBackend`, by name."""


@hookspec
def register_frame_rate_schedulers() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.FrameRateScheduler`, by name."""


@hookspec
def register_interpolation_strategies() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.InterpolationStrategy`, by name."""


@hookspec
def register_data_sources() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.DataSource`, or of `TokenSource` (`cogvid.interfaces.token_source`), by name."""


@hookspec
def register_frame_tokenizers() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.FrameTokenizer`, by name."""


@hookspec
def register_text_tokenizers() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.TextTokenizer`, by name."""


@hookspec
def register_decodings() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.Decoding`, by name."""


@hookspec
def register_metrics() -> dict[str, ComponentClass]:  # type: ignore[empty-body]
    """Subclasses of `cogvid.VideoMetric`, by name."""
