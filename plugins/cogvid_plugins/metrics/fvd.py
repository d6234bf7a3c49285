"""Fréchet video distance with a choice of extractors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cogvid import UserError, hookimpl
from cogvid.metrics import FrechetVideoDistance, TorchScriptExtractor, VideoExtractor, VideoMetric
from cogvid_plugins.shapes.extractor import Shapes3dExtractor


@dataclass
class ExtractorConfig:
    """Which network reads the videos."""

    extractor: str = "shapes3d"  # shapes3d, or i3d or c3d from a TorchScript file
    path: str = ""  # that file


def open_extractor(config: ExtractorConfig) -> VideoExtractor:
    """The extractor that the options name.

    Raises:
        UserError: there is none of this name, its file is missing, or a file is named that it does not read.
    """
    match config.extractor:
        case "shapes3d":
            if config.path:
                raise UserError(
                    f"The extractor shapes3d brings its own weights and does not read {config.path!r}. "
                    "Leave path empty, or set extractor to i3d or c3d."
                )
            return Shapes3dExtractor()
        case "i3d" | "c3d" as kind:
            return TorchScriptExtractor(config.path, kind)
    raise UserError(f"There is no extractor {config.extractor!r}: choose shapes3d, i3d or c3d.")


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
