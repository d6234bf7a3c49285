"""Data sources: where captioned clips come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogvid.interfaces.component import Component

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Clip:
    """A video file with its caption.

    Attributes:
        id: unique name of the clip in its source.
        path: the video file.
        caption: what it shows; the text the model is conditioned on.
        split: `train` or `test`; a model never trains on `test`. All clips of one video file have the same.
    """

    id: str
    path: Path
    caption: str
    split: Split


class DataSource(Component):
    """Provides the clips of an experiment."""

    def fingerprint(self) -> str:
        """What the clips depend on besides the options: a run with another fingerprint prepares them anew."""
        return ""

    @abstractmethod
    def clips(self, folder: Path, seed: int, progress: Progress) -> list[Clip]:
        """Make the clips in `folder`, or find them where they are, and list them.

        Args:
            folder: a folder of this source's own; a source that only reads leaves it empty. A source that was
                stopped half-way finds its unfinished files here and finishes them.
            seed: all randomness follows from it.
            progress: call it with (done, total) now and then.

        Raises:
            UserError: there is nothing to train on; the message names the folder or file and what to do.
        """
