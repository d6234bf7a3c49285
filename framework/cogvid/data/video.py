"""Writing video files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from cogvid.errors import UserError

# H.264 spells BT.709 with the same number in each of its colour fields.
BT709 = 1
LIMITED_RANGE = 1


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
