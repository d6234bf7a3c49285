"""Comparing variants: run folders in, one table and one report out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogvid.compare.comparison import Comparison
    from cogvid.compare.find import find_runs
    from cogvid.compare.read import RunRecord
    from cogvid.compare.report import write_report
    from cogvid.compare.summary import compare
    from cogvid.compare.table import print_comparison

# The module of each name, imported where the name is first used: why a run ended is told without the statistics, and a
# table is there before torch would be, for which the report waits to draw masks.
_MODULES = {
    "Comparison": "cogvid.compare.comparison",
    "RunRecord": "cogvid.compare.read",
    "compare": "cogvid.compare.summary",
    "find_runs": "cogvid.compare.find",
    "print_comparison": "cogvid.compare.table",
    "write_report": "cogvid.compare.report",
}

__all__ = ["Comparison", "RunRecord", "compare", "find_runs", "print_comparison", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
