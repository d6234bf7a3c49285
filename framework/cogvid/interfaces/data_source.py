"""Data sources: where captioned clips come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cogvid.interfaces.component import Component

Split = Literal["train", "test"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed archive, such as a tar shard; it is read where it lies.

    Attributes:
        name: in the archive.
        offset: of its first byte in the archive's file.
        size: bytes.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Clip:
    """A video, or a part of one, with what it shows.

    Attributes:
        id: unique name of the clip in its source.
        path: the video file, or the archive that it lies in.
        caption: what it shows; the text the model is conditioned on.
        split: `train` or `test`; a model never trains on `test`. All clips of one video have the same.
        captions: more captions of the same clip: training draws one of all.
        member: of the archive; None for a file of its own.
        span: seconds from the first frame's time at which the clip begins (that frame is in it) and ends (that frame
            is not); None for the whole video.
    """

    id: str
    path: Path
    caption: str
    split: Split
    captions: tuple[str, ...] = ()
    member: Member | None = None
    span: tuple[float, float] | None = None


class DataSource(Component):
    """Provides the clips of an experiment; `cogvid.testing.data_source_conformance` holds it to what follows."""

    def fingerprint(self) -> str:
        """What the clips depend on besides the options: a run with another fingerprint prepares them anew."""
        return ""

    @abstractmethod
    def clips(self, folder: Path, seed: int, progress: Progress) -> Iterable[Clip]:
        """Make the clips in `folder`, or find them where they are, and list them: the same ones in the same order for
        the same fingerprint. An iterator never holds more of them than it must.

        Args:
            folder: a folder of this source's own; a source that only reads leaves it empty. A source that was
                stopped half-way finds its unfinished files here and finishes them.
            seed: all randomness follows from it.
            progress: call it with (done, total) now and then.

        Raises:
            UserError: there is nothing to train on; the message names the folder or file and what to do.
        """
