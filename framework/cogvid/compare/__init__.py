"""Comparing variants: run folders in, one table and one report out."""

from cogvid.compare.read import RunRecord, find_runs
from cogvid.compare.report import write_report
from cogvid.compare.summary import Comparison, compare
from cogvid.compare.table import print_comparison

__all__ = ["Comparison", "RunRecord", "compare", "find_runs", "print_comparison", "write_report"]
