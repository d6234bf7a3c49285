"""cogvid: a laboratory for autoregressive text-to-video transformers, rebuilt from CogVideo (2022)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvid.errors import UserError
    from cogvid.generation.schedule import decode_schedule
    from cogvid.interfaces.attention import AttentionBackend
    from cogvid.interfaces.data_source import Clip, DataSource
    from cogvid.interfaces.decoding import Decoding
    from cogvid.interfaces.frame_rate import FrameRateScheduler
    from cogvid.interfaces.frame_tokenizer import FrameTokenizer
    from cogvid.interfaces.grid import Grid, Position
    from cogvid.interfaces.hookspecs import hookimpl
    from cogvid.interfaces.interpolation import InterpolationStrategy, Round, Window
    from cogvid.interfaces.metric import VideoMetric
    from cogvid.interfaces.text_tokenizer import TextTokenizer
    from cogvid.model.released import load_released
    from cogvid.plugins.manager import create_component

# The module of each public name, imported where the name is first used: a command must not wait for torch before it
# can answer to Ctrl-C.
_MODULES = {
    "AttentionBackend": "cogvid.interfaces.attention",
    "Clip": "cogvid.interfaces.data_source",
    "DataSource": "cogvid.interfaces.data_source",
    "Decoding": "cogvid.interfaces.decoding",
    "FrameRateScheduler": "cogvid.interfaces.frame_rate",
    "FrameTokenizer": "cogvid.interfaces.frame_tokenizer",
    "Grid": "cogvid.interfaces.grid",
    "InterpolationStrategy": "cogvid.interfaces.interpolation",
    "Position": "cogvid.interfaces.grid",
    "Round": "cogvid.interfaces.interpolation",
    "TextTokenizer": "cogvid.interfaces.text_tokenizer",
    "UserError": "cogvid.errors",
    "VideoMetric": "cogvid.interfaces.metric",
    "Window": "cogvid.interfaces.interpolation",
    "create_component": "cogvid.plugins.manager",
    "decode_schedule": "cogvid.generation.schedule",
    "hookimpl": "cogvid.interfaces.hookspecs",
    "load_released": "cogvid.model.released",
}

__all__ = [
    "AttentionBackend",
    "Clip",
    "DataSource",
    "Decoding",
    "FrameRateScheduler",
    "FrameTokenizer",
    "Grid",
    "InterpolationStrategy",
    "Position",
    "Round",
    "TextTokenizer",
    "UserError",
    "VideoMetric",
    "Window",
    "create_component",
    "decode_schedule",
    "hookimpl",
    "load_released",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cogvid' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
