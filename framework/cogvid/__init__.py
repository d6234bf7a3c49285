"""cogvid: a laboratory for autoregressive text-to-video transformers, rebuilt from CogVideo (2022)."""

from cogvid.attention.backend import AttentionBackend
from cogvid.data_source import Clip, DataSource
from cogvid.errors import UserError
from cogvid.frame_rate import FrameRateScheduler
from cogvid.frame_tokenizer import FrameTokenizer
from cogvid.generation.schedule import decode_schedule
from cogvid.grid import Grid, Position
from cogvid.hookspecs import hookimpl
from cogvid.interpolation import InterpolationStrategy, Round, Window
from cogvid.metrics.base import VideoMetric
from cogvid.model.released import load_released
from cogvid.plugins import create_component

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
