"""Metrics over videos, and the mathematics behind them."""

from cogvid.interfaces.metric import Meaning, VideoMetric
from cogvid.metrics.described import DescribedExtractor
from cogvid.metrics.extractors import Reading, VideoExtractor
from cogvid.metrics.frames import FrechetFrameDistance
from cogvid.metrics.frechet import FrechetVideoDistance, frechet_distance
from cogvid.metrics.inception import VideoInceptionScore, inception_score
from cogvid.metrics.joint import FrechetJointDistance
from cogvid.metrics.kernel import kernel_distance
from cogvid.metrics.manifold import PrecisionRecall, precision_recall
from cogvid.metrics.reconstruction import Reconstruction
from cogvid.metrics.text_fidelity import TextFidelity
from cogvid.metrics.torchscript import TorchScriptExtractor

__all__ = [
    "DescribedExtractor",
    "FrechetFrameDistance",
    "FrechetJointDistance",
    "FrechetVideoDistance",
    "Meaning",
    "PrecisionRecall",
    "Reading",
    "Reconstruction",
    "TextFidelity",
    "TorchScriptExtractor",
    "VideoExtractor",
    "VideoInceptionScore",
    "VideoMetric",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]
