"""What an evaluation metric is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from cogvid.errors import UserError

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Meaning:
    """What one of a metric's values says, for tables.

    Attributes:
        title: heads its column; of a distance between features it names their extractor.
        text: one line for who has never met it.
        better: the direction of improvement, if there is one.
        unit: empty for plain numbers, `share` for 0 to 1, `dB`, `nats`, `pixels`, ...
        error: the name of the value that is its standard error within one run, if the metric gives one.
        headline: whether it stands among the few columns that are always shown.
    """

    title: str
    text: str
    better: Better | None = None
    unit: str = ""
    error: str = ""
    headline: bool = False


class VideoMetric(Metric):
    """A torchmetrics `Metric` over videos, component of kind `metric`.

    Neither the order of the videos, nor their batches, nor how many processes share them, changes a value
    (`cogvid.testing.metric_conformance`). The evaluation resets the metric for each set of videos it scores, feeds the
    set and the real videos it is compared with, then computes.
    """

    full_state_update = False
    # Whether the real videos are those that the scored ones show again, clip by clip and in their order, as a frame
    # tokenizer does; sets that are no such copies are not scored. Otherwise they are other clips of the test split.
    paired: bool = False
    # Whether the key frames alone can be scored, too; they are fewer than the real clips that a set is compared with.
    key_frames: bool = False

    @dataclass
    class Config:
        """No options."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config: Any = self.Config() if config is None else config

    def check(self, frames: int, height: int, width: int) -> None:
        """Refuse what is known before any clip is made; called when everything else about the experiment is right.

        Args:
            frames: of the clips that will be scored.
            height: of them, in pixels.
            width: the same.

        Raises:
            UserError: such clips cannot be scored, or a file that this needs does not do.
        """

    @abstractmethod
    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        """Add videos.

        Args:
            videos: uint8 (B, F, 3, height, width).
            captions: B texts.
            real: True for the real videos that the set is compared with, False for the set that is scored.

        Raises:
            UserError: these are no videos (`check_videos`), or cannot be scored.
        """

    @abstractmethod
    def compute(self) -> dict[str, Tensor]:
        """Values by name, always the same names: scalar float64 tensors, never infinite, NaN where the videos seen do
        not determine one."""

    def cautions(self) -> dict[str, str]:
        """What a reader must know before trusting a value, one sentence by the value's name, such as that too few
        videos were seen; asked for after `compute`. No table marks a value with a caution as the best."""
        return {}

    @property
    @abstractmethod
    def meanings(self) -> dict[str, Meaning]:
        """What the values say, by the names that `compute` gives them, the most telling first. Standard errors, which
        another value names as its `error`, need no entry."""

    @property
    @abstractmethod
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable (extractor and its SHA-256, resize, splits, ...)."""


def check_videos(videos: Tensor) -> None:
    """Refuse videos in another form than the one all metrics read: other forms score without a word, and wrongly.

    Raises:
        UserError: they are not uint8 (B, F, 3, height, width).
    """
    if not isinstance(videos, Tensor):
        raise UserError(f"videos to score are tensors, not {type(videos).__name__}")
    if videos.dtype is not torch.uint8 or videos.ndim != 5 or videos.shape[2] != 3:
        raise UserError(
            "videos to score are uint8 (videos, frames, 3, height, width), these are "
            f"{str(videos.dtype).removeprefix('torch.')} {tuple(videos.shape)}: bring them to values 0 to 255 and "
            "three channels behind the frames"
        )
