"""Video files: write frames, find out what a file holds, read the frames shown at given times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cogvid.errors import UserError

# Containers round timestamps, some to milliseconds: a frame this little after a time counts as shown at it.
TIME_TOLERANCE = 1e-3
# H.264 spells BT.709 with the same number in each of its colour fields.
BT709 = 1
LIMITED_RANGE = 1


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        timestamps: float64 (T,), the seconds of each frame since the first one, ascending.
        width: pixels as shown, that is with the rotation that the file's metadata asks for.
        height: the same.
    """

    timestamps: NDArray[np.float64]
    width: int
    height: int

    @property
    def duration(self) -> float:
        """Seconds from the first frame's time to the last one's."""
        return float(self.timestamps[-1])


class VideoWriter:
    """Writes an mp4 file frame after frame, whole or not at all: it gets its name when the `with` block ends well.

    Args:
        path: where; the folder exists.
        fps: frames per second.
        lossless: keep every pixel (H.264 in RGB, which few browsers play). False: H.264 that every browser
            plays, with odd sides one pixel longer.

    Raises:
        UserError: the file cannot be written; the message names it and the cause, such as a full disk.
    """

    def __init__(self, path: Path, fps: float, lossless: bool = True) -> None:
        self.path, self.fps, self.lossless = path, fps, lossless
        self._partial = path.with_name(f".{path.name}.partial")
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None

    def __enter__(self) -> VideoWriter:
        with self._named_errors():
            self._container = av.open(str(self._partial), "w", format="mp4")
        return self

    def add(self, frames: NDArray[np.uint8] | Tensor) -> None:
        """Append frames: uint8, an array (T, height, width, 3) or a tensor (T, 3, height, width), all of one size."""
        array = frames.permute(0, 2, 3, 1).cpu().numpy() if isinstance(frames, Tensor) else frames
        assert array.dtype == np.uint8, array.dtype
        assert array.shape[3:] == (3,), array.shape
        if not self.lossless:
            array = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2), (0, 0)), "edge")
        if self._stream is None:
            self._stream = self._open_stream(*array.shape[1:3])
        with self._named_errors():
            for image in array:
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                if not self.lossless:
                    frame = self._converter.reformat(
                        frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1
                    )
                self._container.mux(self._stream.encode(frame))

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            with self._named_errors():
                if kind is None and self._stream is not None:
                    self._container.mux(self._stream.encode(None))
                self._container.close()
                if kind is None:
                    self._partial.replace(self.path)
        except UserError:
            if kind is None:  # else what went wrong first is what the user should hear of
                raise
        finally:
            self._partial.unlink(missing_ok=True)

    def _open_stream(self, height: int, width: int) -> VideoStream:
        if self.lossless:
            codec, pixel_format, options = "libx264rgb", "rgb24", {"crf": "0", "preset": "ultrafast"}
        else:
            codec, pixel_format, options = "libx264", "yuv420p", {"crf": "12"}
        rate = Fraction(self.fps).limit_denominator(1001)
        stream = self._container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = height, width
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        # Frames are small here: more threads cost more than they bring.
        context.thread_count = 1
        if not self.lossless:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
        return stream

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The video {self.path} cannot be written: {error.strerror}. Make room there or choose another folder."
            ) from error


def write_video(path: Path, frames: NDArray[np.uint8] | Tensor, fps: float, lossless: bool = True) -> None:
    """Write an mp4 file, whole or not at all.

    Args:
        path, fps, lossless: as for `VideoWriter`.
        frames: uint8, an array (T, height, width, 3) or a tensor (T, 3, height, width).

    Raises:
        UserError: the file cannot be written; the message names it and the cause, such as a full disk.
    """
    with VideoWriter(path, fps, lossless) as writer:
        writer.add(frames)


def probe(path: Path) -> VideoInfo:
    """The frame times and the size of a video; decodes only its first frame.

    Raises:
        UserError: the file is no video that can be read, or has no frames.
    """
    timestamps: list[float] = []
    first: VideoFrame | None = None
    with _open(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                timestamps.append(_seconds(packet, path))
            if first is None:
                first = next(iter(packet.decode()), None)
    if first is None:
        raise _unreadable(path, "it has no frames")
    sideways = _quarter_turns(first) % 2 == 1
    height, width = (first.width, first.height) if sideways else (first.height, first.width)
    times = np.sort(np.asarray(timestamps))
    return VideoInfo(times - times[0], width, height)


def read_frames(path: Path, times: Sequence[float], size: int | None = None) -> Tensor:
    """The frames shown at given times.

    Args:
        path: the video file.
        times: seconds since the first frame, in any order. Each gets the last frame at or before it; times
            before the first frame get the first.
        size: crop to a centred square and resize to this side, antialiased; None leaves frames as they are.

    Returns:
        uint8 (len(times), 3, height, width); pixels are exact where nothing had to be resized.

    Raises:
        UserError: the file is no video that can be read, or has no frames.
    """
    images: dict[int, Tensor] = {}
    # The earliest time last, where it is cheap to take off.
    waiting = sorted(range(len(times)), key=times.__getitem__, reverse=True)
    # One for all frames: setting up a conversion costs forty times as much as converting a small frame.
    converter = VideoReformatter()
    with _open(path) as (container, stream):
        for frame, end in _shown(container, stream, path):
            due: list[int] = []
            while waiting and times[waiting[-1]] < end - TIME_TOLERANCE:
                due.append(waiting.pop())
            if due:
                images.update(dict.fromkeys(due, _image(frame, size, converter)))
            if not waiting:
                break
    if waiting:
        raise _unreadable(path, "it has no frames")
    return torch.stack([images[index] for index in range(len(times))])


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened file and its video stream; whatever FFmpeg finds wrong while it is read is a `UserError`."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise _unreadable(path, "it has no video stream")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            yield container, stream
    except av.FFmpegError as error:
        raise _unreadable(path, error.strerror or "FFmpeg cannot decode it") from error


def _shown(container: InputContainer, stream: VideoStream, path: Path) -> Iterator[tuple[VideoFrame, float]]:
    """Each frame with the seconds, since the first frame, at which the next one takes its place."""
    shown: VideoFrame | None = None
    start = 0.0
    for frame in container.decode(stream):
        time = _seconds(frame, path)
        if shown is None:
            start = time
        else:
            yield shown, time - start
        shown = frame
    if shown is not None:
        yield shown, float("inf")


def _unreadable(path: Path, cause: str) -> UserError:
    return UserError(f"The video {path} cannot be read: {cause}. Replace the file, or remove its caption.")


def _seconds(timed: av.Packet[VideoStream] | VideoFrame, path: Path) -> float:
    if timed.pts is None or timed.time_base is None:
        raise _unreadable(path, "its frames have no timestamps, as in a raw stream outside a container")
    return float(timed.pts * timed.time_base)


def _quarter_turns(frame: VideoFrame) -> int:
    """Counter-clockwise quarter turns that bring the stored pixels into the position they are shown in."""
    return round(frame.rotation / 90)


def _image(frame: VideoFrame, size: int | None, converter: VideoReformatter) -> Tensor:
    """A decoded frame as uint8 (3, height, width), turned as shown, cropped and resized."""
    rgb = converter.reformat(frame, format="rgb24", threads=1)
    array = np.rot90(rgb.to_ndarray(), _quarter_turns(frame))
    image = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
    if size is None:
        return image
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[:, top : top + side, left : left + side]
    if side == size:
        return square
    return functional.interpolate(square[None], size=(size, size), mode="bilinear", antialias=True)[0]
