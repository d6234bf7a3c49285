"""For authors of plugins: whether a component keeps the promises of its interface, in one line of a test."""

from cogvid.testing.attention import attention_conformance
from cogvid.testing.report import Case, ConformanceError, Failure

__all__ = ["Case", "ConformanceError", "Failure", "attention_conformance"]
