"""cogvid: a laboratory for autoregressive text-to-video transformers, rebuilt from CogVideo (2022)."""

from cogvid.errors import UserError
from cogvid.generation.schedule import decode_schedule
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.interfaces.frame_rate import FrameRateScheduler
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.interfaces.grid import Grid, Position
from cogvid.interfaces.hookspecs import hookimpl
from cogvid.interfaces.interpolation import InterpolationStrategy, Round, Window
from cogvid.interfaces.metric import VideoMetric
from cogvid.model.released import load_released
from cogvid.plugins.manager import create_component

__all__ = [
    "AttentionBackend",
    "Clip",
    "DataSource",
    "FrameRateScheduler",
    "FrameTokenizer",
    "Grid",
    "InterpolationStrategy",
    "Position",
    "Round",
    "UserError",
    "VideoMetric",
    "Window",
    "create_component",
    "decode_schedule",
    "hookimpl",
    "load_released",
]
