"""Reading video files: what a file holds, and its frames as a player shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from av.container import InputContainer
from av.format import ContainerFormat, Flags
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import Video, VideoFile
from cogvid.data.frame_format import FrameFormat, resized
from cogvid.errors import UserError

# How pixels come out of a file, for the records of what is scored.
DECODE = "FFmpeg, rgb24"
# A frame that follows the one before it this many seconds later is a damaged time stamp, not a video.
LONGEST_GAP = 3600
# Containers without times of showing, by FFmpeg's names.
_DECODING_TIMES = ("avi", "asf")
_NO_TIMES = "its frames have no timestamps, as in a raw stream outside a container"
# Pixels are stretched by this factor at most: what says more is damage.
MOST_STRETCHED = 16


def probe(file: VideoFile | Path) -> Video:
    """The frame times and the size of a video, which is decoded to its last frame.

    Raises:
        UserError: the file is no video, or cannot be decoded to its end; the message says why.
    """
    file = _video_file(file)
    stamps: list[int] = []
    unit: Fraction | None = None
    pixels = _Pixels(None)
    converted, first_format, codec, height, width = "", "", "", 0, 0
    container: ContainerFormat | None = None
    for frame, placement, stream in _decoded(file):
        if frame.pts is None or frame.time_base is None:
            raise _unreadable(file, _NO_TIMES)
        if frame.format.name != converted:  # once for each format, to know that it can be
            converted = frame.format.name
            first_format = first_format or converted
            height, width = pixels.of(frame, placement).shape[:2]
        if unit is None:
            unit, codec, container = frame.time_base, stream.codec_context.name, stream.container.format
        stamps.append(frame.pts)
    if unit is None or container is None:
        raise _unreadable(file, "it has no frames")
    if len(stamps) > 1 and _timeless(container):
        raise _unreadable(file, _NO_TIMES)
    if container.name in _DECODING_TIMES:
        stamps = _packet_stamps(file, unit, len(stamps)) or stamps
    _check_gaps(file, stamps, unit)
    return Video(ClipTimes.of(stamps, unit), width, height, codec, first_format)


def read_frames(file: VideoFile | Path, numbers: Sequence[int], form: FrameFormat | None = None) -> Tensor:
    """Frames of a video.

    Args:
        file: the video.
        numbers: which frames, counted from 0 in the order they are shown in; any order, with repetitions.
        form: what pictures are made to fit; None leaves them as a player shows them.

    Returns:
        uint8 (len(numbers), 3, height, width); pixels are exact where nothing had to be resized.

    Raises:
        UserError: the file is no video that can be read, or has no such frame.
    """
    file = _video_file(file)
    places: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        places.setdefault(number, []).append(place)
    last = max(numbers)
    pixels = _Pixels(form)
    images: NDArray[np.uint8] | None = None
    for number, (frame, placement, _) in enumerate(_decoded(file)):
        if number in places:
            image = pixels.of(frame, placement).transpose(2, 0, 1)
            # Each pixel is written once: most of the time beside decoding goes into touching memory.
            images = np.empty((len(numbers), *image.shape), dtype=np.uint8) if images is None else images
            for place in places[number]:
                images[place] = image
        if number == last:
            return torch.from_numpy(images)
    raise _unreadable(file, f"it has no frame {last}")


def _timeless(container: ContainerFormat) -> bool:
    """Whether it is a raw stream, or pictures one after the other: FFmpeg takes 25 a second for granted."""
    return bool(container.flags & cast(int, Flags.no_timestamps.value)) or container.name.endswith("_pipe")


def _packet_stamps(file: VideoFile, unit: Fraction, frames: int) -> list[int]:
    """The times of the packets, where each is a frame: of a container that has no others, FFmpeg guesses those of
    frames, and not always well. Empty where a packet is not a frame."""
    try:
        with _opened(file) as (container, stream):
            stamps = [packet.dts for packet in container.demux(stream) if packet.size and packet.time_base == unit]
    except av.FFmpegError:
        return []
    known = [stamp for stamp in stamps if stamp is not None]
    return known if len(known) == len(stamps) == frames else []


def _video_file(file: VideoFile | Path) -> VideoFile:
    return VideoFile(file) if isinstance(file, Path) else file


def _decoded(file: VideoFile) -> Iterator[tuple[VideoFrame, _Placement, VideoStream]]:
    """The frames in the order they are shown in, all of one size, and their stream.

    Whatever is wrong with the file is a `UserError`.
    """
    count = 0
    try:
        with _opened(file) as (container, stream):
            size, placement = (0, 0), None
            for frame in container.decode(stream):
                if placement is None:
                    size, placement = (frame.width, frame.height), _placement(file, frame, stream)
                if frame.is_corrupt:
                    raise _unreadable(file, f"its frame {count} is damaged")
                if (frame.width, frame.height) != size:
                    raise _unreadable(file, f"its frame {count} has another size than those before it")
                yield frame, placement, stream
                count += 1
    except (av.FFmpegError, MemoryError) as error:
        cause = getattr(error, "strerror", None) or "FFmpeg cannot decode it"
        raise _unreadable(file, f"{cause} (after {count} frames)" if count else cause) from error


@contextmanager
def _opened(file: VideoFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    # Titles are in any encoding; nobody reads them.
    with av.open(file.address, metadata_errors="replace") as container:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            raise _unreadable(file, "it has no video stream")
        if stream.codec_context is None:
            raise _unreadable(file, "FFmpeg does not know its codec")
        stream.codec_context.thread_count = 1
        yield container, stream


def _placement(file: VideoFile, frame: VideoFrame, stream: VideoStream) -> _Placement:
    placement = _Placement.of(frame, stream)
    if not 1 / Fraction(MOST_STRETCHED) <= placement.aspect <= MOST_STRETCHED:
        raise _unreadable(file, f"its pixels would be {float(placement.aspect):.3g} times as wide as high")
    return placement


def _check_gaps(file: VideoFile, stamps: Sequence[int], unit: Fraction) -> None:
    ordered = sorted(stamps)
    for number, (before, stamp) in enumerate(pairwise(ordered), start=1):
        if (stamp - before) * unit > LONGEST_GAP:
            hours = float((stamp - before) * unit / 3600)
            raise _unreadable(file, f"its frame {number} is shown {hours:.3g} hours after the one before it")


def _unreadable(file: VideoFile, cause: str) -> UserError:
    return UserError(f"The video {file} cannot be read: {cause}. Replace the file, or remove its caption.")


@dataclass(frozen=True)
class _Placement:
    """How a player places stored pixels: it stretches, transposes, then mirrors them.

    Attributes:
        aspect: width of a stored pixel by its height.
        transposed: rows become columns.
        mirrored: whether left and right, and whether top and bottom change places in what is shown.
    """

    aspect: Fraction
    transposed: bool
    mirrored: tuple[bool, bool]

    @classmethod
    def of(cls, frame: VideoFrame, stream: VideoStream) -> _Placement:
        """What the file says beside a frame, to the nearest quarter turn."""
        aspect = stream.sample_aspect_ratio or Fraction(1)
        # What is shown at x', y': x' = a x + c y and y' = b x + d y (ISO 14496-12), each in whole numbers.
        a, b, _, c, d = _matrix(frame)
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(aspect, False, (a < 0, d < 0))
        return cls(aspect, True, (c < 0, b < 0))

    def place(self, image: NDArray[Any]) -> tuple[NDArray[Any], Fraction]:
        """An array (height, width, 3) turned and mirrored, and its pixels' width by their height."""
        if not self.transposed and self.mirrored == (False, False):
            return image, self.aspect
        if self.transposed:
            image = image.transpose(1, 0, 2)
        columns, rows = (slice(None, None, -1 if mirrored else 1) for mirrored in self.mirrored)
        return image[rows, columns], 1 / self.aspect if self.transposed else self.aspect


def _matrix(frame: VideoFrame) -> list[int]:
    """The first five numbers of a frame's display matrix."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # Beside it lies something that PyAV has no name for, such as EXIF; then it tells only how the frame is turned.
        turned = math.radians(frame.rotation)
        a, b = round(math.cos(turned)), round(-math.sin(turned))
        return [a, b, 0, -b, a]
    return np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist() if matrix is not None else [1, 0, 0, 0, 1]


class _Pixels:
    """Turns decoded frames into images as a player shows them.

    Args:
        form: what they are made to fit; None keeps them as shown.
    """

    def __init__(self, form: FrameFormat | None) -> None:
        self._form = form
        # One for all frames: setting up a conversion costs forty times as much as converting a small frame.
        self._converter = VideoReformatter()

    def of(self, frame: VideoFrame, placement: _Placement) -> NDArray[np.uint8]:
        """Uint8 (height, width, 3)."""
        rgb = self._converter.reformat(frame, format="rgb24", threads=1)
        array, aspect = placement.place(rgb.to_ndarray())
        if self._form is None:
            height, width = array.shape[:2]
            return resized(array, height, max(round(width * aspect), 1))
        return self._form.of(array, aspect)
