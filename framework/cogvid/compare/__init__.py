"""Comparing variants: run folders in, one table and one report out."""

from typing import Any

from cogvid.compare.comparison import Comparison
from cogvid.compare.find import find_runs
from cogvid.compare.read import RunRecord
from cogvid.compare.summary import compare
from cogvid.compare.table import print_comparison

__all__ = ["Comparison", "RunRecord", "compare", "find_runs", "print_comparison", "write_report"]


def __getattr__(name: str) -> Any:
    """The report draws masks, for which it needs torch: a table is there before torch would be."""
    if name == "write_report":
        from cogvid.compare.report import write_report

        return write_report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
