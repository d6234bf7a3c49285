"""For authors of plugins: whether a component keeps the promises of its interface, in one line of a test."""

from cogvid.testing.attention import attention_conformance
from cogvid.testing.decoding import decoding_conformance
from cogvid.testing.report import Case, ConformanceError, Failure
from cogvid.testing.text_tokenizer import text_tokenizer_conformance

__all__ = [
    "Case",
    "ConformanceError",
    "Failure",
    "attention_conformance",
    "decoding_conformance",
    "text_tokenizer_conformance",
]
