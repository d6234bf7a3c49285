"""Metrics over videos, and the mathematics behind them."""

from cogvid.interfaces.metric import Meaning, VideoMetric
from cogvid.metrics.extractors import Reading, TorchScriptExtractor, VideoExtractor
from cogvid.metrics.frechet import FrechetVideoDistance, frechet_distance, kernel_distance
from cogvid.metrics.inception import VideoInceptionScore, inception_score

__all__ = [
    "FrechetVideoDistance",
    "Meaning",
    "Reading",
    "TorchScriptExtractor",
    "VideoExtractor",
    "VideoInceptionScore",
    "VideoMetric",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
]
