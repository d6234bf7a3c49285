"""Fréchet video distance with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from cogvid import UserError, hookimpl
from cogvid.config.ranges import one_of, option
from cogvid.metrics import FrechetVideoDistance, TorchScriptExtractor, VideoExtractor, VideoMetric
from cogvid_plugins.shapes.extractor import Shapes3dExtractor


@dataclass
class ExtractorConfig:
    """Which network reads the videos."""

    extractor: str = option("shapes3d", one_of("shapes3d", "i3d", "c3d"))  # i3d and c3d from a file
    path: str = ""  # the TorchScript file


def open_extractor(config: ExtractorConfig) -> VideoExtractor:
    """The extractor that the options name.

    Raises:
        UserError: its file is missing, or a file is named that it does not read.
    """
    if config.extractor != "shapes3d":
        return TorchScriptExtractor(config.path, cast(Literal["i3d", "c3d"], config.extractor))
    if config.path:
        raise UserError(
            f"The extractor shapes3d brings its own weights and does not read {config.path!r}. "
            "Leave path empty, or set extractor to i3d or c3d."
        )
    return Shapes3dExtractor()


class Fvd(FrechetVideoDistance):
    """Fréchet video distance by the extractor that the options name."""

    @dataclass
    class Config(ExtractorConfig):
        """Which network reads the videos."""

    def __init__(self, config: Any = None) -> None:
        config = self.Config() if config is None else config
        super().__init__(open_extractor(config), config)


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"fvd": Fvd}
