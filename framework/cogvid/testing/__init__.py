"""For authors of plugins: whether a component keeps the promises of its interface, in one line of a test."""

from cogvid.testing.attention import attention_conformance
from cogvid.testing.data_source import data_source_conformance
from cogvid.testing.decoding import decoding_conformance
from cogvid.testing.frame_rate import frame_rate_conformance
from cogvid.testing.frame_tokenizer import frame_tokenizer_conformance
from cogvid.testing.interpolation import interpolation_conformance
from cogvid.testing.kinds import conformance
from cogvid.testing.metric import metric_conformance
from cogvid.testing.report import Case, ConformanceError, Failure
from cogvid.testing.text_tokenizer import text_tokenizer_conformance

__all__ = [
    "Case",
    "ConformanceError",
    "Failure",
    "attention_conformance",
    "conformance",
    "data_source_conformance",
    "decoding_conformance",
    "frame_rate_conformance",
    "frame_tokenizer_conformance",
    "interpolation_conformance",
    "metric_conformance",
    "text_tokenizer_conformance",
]
