"""Video files: write frames, read frames at given times."""

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
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cogvid.errors import UserError

# Some containers round timestamps to milliseconds: a frame this little after a time counts as shown at it.
TIME_TOLERANCE = 1e-3
# The same number stands for BT.709 in every colour field of H.264.
BT709 = 1
LIMITED_RANGE = 1


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        timestamps: float64 (T,), seconds of each frame since the first one, ascending.
        width: pixels as shown, the rotation in the file's metadata applied.
        height: the same.
    """

    timestamps: NDArray[np.float64]
    width: int
    height: int

    @property
    def duration(self) -> float:
        """Seconds from the first frame's time to the last one's."""
        return float(self.timestamps[-1])


def write_video(path: Path, frames: NDArray[np.uint8] | Tensor, fps: float, lossless: bool = True) -> None:
    """Write an mp4 file; under `path` stands the whole video or what was there before.

    Args:
        path: where; the folder exists.
        frames: uint8, an array (T, height, width, 3) or a tensor (T, 3, height, width).
        fps: frames per second.
        lossless: keep every pixel (H.264 in RGB). False: H.264 that every browser plays; odd sides grow by one.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    array = frames.permute(0, 2, 3, 1).cpu().numpy() if isinstance(frames, Tensor) else frames
    assert array.dtype == np.uint8
    assert array.ndim == 4 and array.shape[-1] == 3, array.shape
    # Not `.mp4`: nobody takes an unfinished file for a video.
    partial = path.with_name(f".{path.name}.partial")
    try:
        _encode(partial, array, fps, lossless)
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"Cannot write the video {path}: {error.strerror}. Make room or choose another folder."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, frames: NDArray[np.uint8], fps: float, lossless: bool) -> None:
    if lossless:
        codec, pixel_format, options = "libx264rgb", "rgb24", {"crf": "0", "preset": "ultrafast"}
    else:
        codec, pixel_format, options = "libx264", "yuv420p", {"crf": "12"}
        frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), "edge")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        context = stream.codec_context
        # Threads cost more than they bring on frames as small as these.
        context.thread_count = 1
        if not lossless:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED_RANGE
        for array in frames:
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            if not lossless:
                frame = frame.reformat(format=pixel_format, dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def probe(path: Path) -> VideoInfo:
    """The frame times and the size of a video.

    Raises:
        UserError: the file is no readable video, or has no frames.
    """
    with _open(path) as (container, stream):
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        times = [packet.pts for packet in packets]
        container.seek(0)
        first = next(container.decode(stream), None)
        ...
