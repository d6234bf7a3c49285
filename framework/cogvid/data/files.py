"""A video's bytes, a file of its own or a member of an archive that is read where it lies, and what they hold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cogvid.data.clip_times import ClipTimes
from cogvid.interfaces.data_source import Clip, Member

# What a file is called that is taken for a video where nobody names it.
VIDEO_SUFFIXES = {".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class VideoFile:
    """Where a video lies.

    Attributes:
        path: the video file, or the archive.
        member: of the archive; None for a file of its own.
    """

    path: Path
    member: Member | None = None

    @classmethod
    def of(cls, clip: Clip) -> VideoFile:
        """The video that a clip is, or is a part of."""
        return cls(clip.path, clip.member)

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.member.name} in {self.path}"

    @property
    def address(self) -> str:
        """What FFmpeg opens. It takes a relative name such as `cat:one.mp4` for a protocol's."""
        path = str(self.path.absolute())
        if self.member is None:
            return path
        return f"subfile,,start,{self.member.offset},end,{self.member.offset + self.member.size},,:{path}"

    def state(self) -> str:
        """Size and time of the file: while they stay, what was read of it holds.

        Raises:
            OSError: it is not there.
        """
        stat = self.path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def sha256(self) -> str:
        """Of the bytes."""
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            left = file.seek(0, 2)
            file.seek(0)
            if self.member is not None:
                file.seek(self.member.offset)
                left = self.member.size
            while left and (chunk := file.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class Video:
    """What a video file holds.

    Attributes:
        times: when its frames are shown.
        width: pixels as shown, that is stretched and turned as the file asks for.
        height: the same.
        codec: FFmpeg's name of it.
        pixel_format: FFmpeg's name of what its frames are stored in.
    """

    times: ClipTimes
    width: int
    height: int
    codec: str
    pixel_format: str = ""
