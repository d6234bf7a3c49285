"""Which network reads the videos that a metric scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from cogvid import UserError
from cogvid.config.ranges import Allowed, option
from cogvid.metrics import DescribedExtractor, TorchScriptExtractor, VideoExtractor
from cogvid_plugins.shapes.extractor import Shapes3dExtractor

BUILT_IN = ("shapes3d", "i3d", "c3d")
DESCRIPTIONS = (".yaml", ".yml")
_ALLOWED = Allowed(
    "'shapes3d' or 'i3d' or 'c3d', or the path of a YAML file that describes a TorchScript file",
    lambda value: value in BUILT_IN or Path(value).suffix in DESCRIPTIONS,
)


@dataclass
class ExtractorConfig:
    """Which network reads the videos."""

    extractor: str = option("shapes3d", _ALLOWED)  # i3d and c3d from a file; a YAML file describes any other
    path: str = ""  # the TorchScript file of i3d or c3d


@dataclass
class DescribedConfig:
    """Which network reads the videos, where no built-in one does what the metric needs."""

    extractor: str = option("???", Allowed("the path of a YAML file", lambda value: Path(value).suffix in DESCRIPTIONS))


def open_extractor(config: ExtractorConfig) -> VideoExtractor:
    """The extractor that the options name.

    Raises:
        UserError: its file is missing, or a file is named that it does not read.
    """
    if config.extractor in ("i3d", "c3d"):
        return TorchScriptExtractor(config.path, cast(Literal["i3d", "c3d"], config.extractor))
    if config.path:
        whose = "brings its own weights" if config.extractor in BUILT_IN else "names its file itself"
        raise UserError(
            f"The extractor {config.extractor} {whose} and does not read {config.path!r}. "
            "Leave path empty, or set extractor to i3d or c3d."
        )
    if config.extractor == "shapes3d":
        return Shapes3dExtractor()
    return DescribedExtractor(config.extractor)
