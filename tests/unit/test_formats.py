"""Every container and video encoder that PyAV has here: a file is read as it was made, or refused with a reason.

By default each encoder in the first container that takes it, and each container with the first encoders that it takes.
`FORMATS=all` makes every pair, each in a process that may crash.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
from collections import Counter
from fractions import Fraction
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.codec import Codec
from av.video.frame import VideoFrame

from cogvid import Clip, UserError
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import probe, read_frames
from cogvid.data.table import listed_row, read_table
from cogvid.pipeline.look import look_at

FRAMES = 6
# Frames a second: what FFmpeg takes raw streams to have is 25, DV knows no other.
RATE, DV_RATE = 24, 25
# Encoders that need a device, and those that encode nothing.
DEVICES = ("_amf", "_nvenc", "_qsv", "_v4l2m2m", "_vaapi", "_vulkan", "_videotoolbox", "_mf")
NOTHING = {"vnull", "wrapped_avframe"}
# Containers of files with video; others hold sound, text or checksums, write to a network or a device, or write more
# files than one.
# fmt: off
CONTAINERS = (
    "matroska", "webm", "mp4", "mov", "avi", "nut", "mpegts", "asf", "flv", "ogg", "ogv", "3gp", "3g2", "ipod",
    "ismv", "psp", "f4v", "mpeg", "vob", "dvd", "svcd", "vcd", "mxf", "mxf_d10", "mxf_opatom", "gxf", "wtv", "swf",
    "rm", "ivf", "dv", "roq", "film_cpk", "filmstrip", "avm2", "amv", "smjpeg", "apng", "gif", "avif", "webp",
    "fits", "ico", "image2pipe", "mjpeg", "mpjpeg", "yuv4mpegpipe", "rawvideo", "h261", "h263", "h264", "hevc",
    "m4v", "mpeg1video", "mpeg2video", "dirac", "dnxhd", "vc1", "obu", "a64", "cavsvideo", "vc1test", "avs2",
    "avs3", "evc", "vvc", "apv", "webm_chunk",
)
# fmt: on
# Packets one after the other.
PIPES = ("image2pipe", "rawvideo")
# The container loses what the decoder needs to know.
LOST = {("wtv", "huffyuv"), ("wtv", "wmv2")}
# Those that hold almost anything, and what is tried in others before all the rest.
ROOMY = ("nut", "avi", "mov", "matroska")
COMMON = ("libx264", "mpeg4", "mpeg2video", "mjpeg", "libvpx-vp9", "png", "rawvideo", "h263", "gif", "ffv1")
OPTIONS = {"strict": "experimental"}
MORE = {"dnxhd": {"profile": "dnxhr_lb"}}
# Seconds: GIF knows hundredths, FLV and ASF thousandths.
ROUNDED = 6e-3
SIZE = (64, 48)
# Some encoders know only their own.
SIZES = {
    "dnxhd": (256, 128),
    "dvvideo": (720, 576),
    "h261": (176, 144),
    "h263": (176, 144),
    "roqvideo": (64, 64),
    "xface": (48, 48),
}
FORMATS = (
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "rgb24",
    "bgr24",
    "bgra",
    "rgb8",
    "gray",
    "monow",
    "yuv422p10le",
)


# Program streams do not say when each frame of H.264 is shown.
PREFERRED = dict.fromkeys(("mpeg", "vob", "dvd", "svcd", "vcd"), "mpeg2video")
# What is no container of videos: raw streams, whose frames have no times; those that end with an error; pictures.
REPORTED = {
    **dict.fromkeys(("rawvideo", "h261", "h263", "h264", "hevc", "m4v", "mjpeg", "obu"), "no timestamps"),
    **dict.fromkeys(("mpeg1video", "mpeg2video", "dnxhd", "fits", "image2pipe"), "no timestamps"),
    **dict.fromkeys(("gxf", "smjpeg", "mpjpeg"), "after 6 frames"),
    **dict.fromkeys(("a64", "webp"), "Invalid data"),
}


def picture(number: int, width: int, height: int) -> np.ndarray:
    """Grey as it is, so that any codec keeps it: a ramp from the top left, and a bar that stands elsewhere in each
    frame."""
    rows, columns = np.mgrid[0:height, 0:width]
    grey = 20 + 90 * columns / max(width - 1, 1) + 50 * rows / max(height - 1, 1)
    grey[rows < height / 6] = 10  # up is not down
    grey[(columns * FRAMES // width == number) & (rows > height / 3)] = 245
    return np.repeat(grey[..., None], 3, axis=2).round().astype(np.uint8)


def encoders() -> list[str]:
    found = []
    for name in sorted(av.codec.codecs_available):
        try:
            codec = Codec(name, "w")
        except ValueError:
            continue
        # Some names are decoders', or of a codec whose encoder has another name.
        if codec.type == "video" and codec.name not in NOTHING and not codec.name.endswith(DEVICES):
            found.append(codec.name)
    return sorted(set(found))


def write(path: Path, container: str, encoder: str, width: int, height: int, pixels: str, frames: int = FRAMES) -> None:
    rate = rate_of(encoder)
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(encoder, rate=rate, options=OPTIONS | MORE.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        for number in range(frames):
            frame = VideoFrame.from_ndarray(picture(number, width, height), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def rate_of(encoder: str) -> int:
    return DV_RATE if encoder == "dvvideo" else RATE


def make(path: Path, container: str, encoder: str) -> tuple[int, int]:
    """Write a video with what the encoder takes; its width and height.

    Raises:
        ValueError: this pair cannot be made.
    """
    reason = "no pixel format is taken"
    width, height = SIZES.get(encoder, SIZE)
    for pixels in pixel_formats(encoder):
        try:
            write(path, container, encoder, width, height, pixels)
        except (av.FFmpegError, ValueError, OSError, TypeError, NotImplementedError) as error:
            reason = str(error)
        else:
            if path.exists() and path.stat().st_size:
                return width, height
        if "does not support" in reason or str(path) in reason:  # the container's fault
            break
    raise ValueError(reason)


@cache
def pixel_formats(encoder: str) -> list[str]:
    known = [each.name for each in Codec(encoder, "w").video_formats or []]
    usual = [name for name in FORMATS if name in known]
    return (usual + [name for name in known if name not in usual])[:4] or list(FORMATS)


def outcome(path: Path, encoder: str, width: int, height: int, frames: int = FRAMES) -> str:
    """`read` where everything is right, `reported: REASON` where the file is refused by name, else what is wrong."""
    try:
        video = probe(path)
        images = read_frames(path, range(len(video.times))).float().mean(1).numpy()
    except UserError as error:
        unnamed = "" if str(path) in str(error) else "wrong: nobody knows which file"
        return unnamed or f"reported: {str(error).split(' cannot be read: ')[-1]}"
    if len(video.times) != frames:
        return f"wrong: {len(video.times)} frames"
    width = round(width * aspect(path))
    if (video.width, video.height) != (width, height) or images.shape[1:] != (height, width):
        return f"wrong: {video.width}x{video.height}, decoded {images.shape[1:]}"
    if frames > 1 and np.abs(video.times.seconds - np.arange(frames) / rate_of(encoder)).max() > ROUNDED:
        return f"wrong: times {video.times.seconds}"
    for number, image in enumerate(images):
        found = nearest(image, frames)
        if found != (number, "as made"):
            return f"wrong: frame {number} looks like {found}"
    return "read"


def aspect(path: Path) -> Fraction:
    """Width of a pixel by its height: some encoders say it of their sizes."""
    with av.open(str(path)) as container:
        return container.streams.video[0].sample_aspect_ratio or Fraction(1)


TURNS = {
    "as made": lambda x: x,
    "mirrored": lambda x: x[:, ::-1],
    "upside down": lambda x: x[::-1],
    "turned by half": lambda x: x[::-1, ::-1],
}


def nearest(image: np.ndarray, frames: int = FRAMES) -> tuple[int, str]:
    """Which frame, and how it is turned."""
    height, width = image.shape
    away = {
        (number, name): np.abs(image - turn(picture(number, width, height)[..., 0].astype(float))).mean()
        for number in range(frames)
        for name, turn in TURNS.items()
    }
    return min(away, key=lambda key: away[key])


def first_made(path: Path, pairs: list[tuple[str, str]]) -> tuple[str, str, int, int]:
    """The first pair that can be made: container and encoder, width and height."""
    reasons = []
    for container, encoder in pairs:
        try:
            return container, encoder, *make(path, container, encoder)
        except ValueError as error:
            reasons.append(f"{container}, {encoder}: {error}")
    pytest.skip(f"cannot be made here: {reasons[0]}")


@pytest.mark.parametrize("encoder", encoders())
def test_what_each_encoder_writes_is_read_or_reported(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "clip"
    others = [name for name in CONTAINERS if name not in ROOMY and name not in REPORTED]
    container, _, width, height = first_made(path, [(name, encoder) for name in (*ROOMY, *others)])
    found = outcome(path, encoder, width, height)
    # What containers of video can hold is read; single pictures are not all of them videos.
    assert found == "read" or (container not in ROOMY and found.startswith("reported")), (container, found)


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_each_container_holds_is_read_or_reported(tmp_path: Path, container: str) -> None:
    path = tmp_path / "clip"
    tried = [PREFERRED.get(container, COMMON[0]), *COMMON, *encoders()]
    _, encoder, width, height = first_made(path, [(container, name) for name in tried])
    found = outcome(path, encoder, width, height)
    if container in REPORTED:
        assert found.startswith("reported"), (encoder, found)
        assert REPORTED[container] in found, (encoder, found)
    else:
        assert found == "read", (encoder, found)


@pytest.mark.parametrize("container", ["avi", "asf"])
@pytest.mark.parametrize("encoder", ["mpeg1video", "mpeg2video"])
def test_times_that_a_container_has_for_packets_alone_are_those_of_the_frames(
    tmp_path: Path, container: str, encoder: str
) -> None:
    write(tmp_path / "clip", container, encoder, 64, 48, "yuv420p")
    assert outcome(tmp_path / "clip", encoder, 64, 48) == "read"


@pytest.mark.skipif(os.environ.get("FORMATS") != "all", reason="FORMATS=all makes every pair, for minutes")
def test_every_pair_is_read_or_reported(tmp_path: Path) -> None:
    pairs = [(container, encoder) for container in CONTAINERS if container not in PIPES for encoder in encoders()]
    waiting = [pair for pair in pairs if pair not in LOST]
    found: dict[tuple[str, str], str] = {}
    while waiting:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(target=_pairs, args=(theirs, tmp_path, waiting))
        process.start()
        theirs.close()
        made: tuple[str, str] | None = None
        try:
            while True:
                pair, said = ours.recv()
                if said == "made":
                    made = pair
                else:
                    found[pair], made = said, None
        except EOFError:
            process.join()
        if process.exitcode:  # before it was made, the encoder's fault
            here = made or next(pair for pair in waiting if pair not in found)
            found[here] = "wrong: the process crashed" if made else "unmade: the encoder crashed"
        waiting = [pair for pair in waiting if pair not in found]
    print(Counter(said.split(":")[0] for said in found.values()))
    print(Counter(said for said in found.values() if said.startswith("reported")))
    wrong = [f"{' '.join(pair)}: {said}" for pair, said in found.items() if said.startswith("wrong")]
    assert not wrong, "\n".join(wrong)


def _pairs(answer: Connection, folder: Path, pairs: list[tuple[str, str]]) -> None:
    path = folder / "clip"
    for container, encoder in pairs:
        path.unlink(missing_ok=True)
        try:
            width, height = make(path, container, encoder)
        except ValueError as error:
            answer.send(((container, encoder), f"unmade: {error}"))
            continue
        answer.send(((container, encoder), "made"))
        answer.send(((container, encoder), outcome(path, encoder, width, height)))


NAMES = {
    "mp4": "libx264",
    "matroska": "libx264",
    "avi": "mpeg4",
    "webm": "libvpx-vp9",
    "mov": "png",
    "mpegts": "mpeg2video",
}


@pytest.mark.parametrize("container", NAMES)
@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4", "clip.mkv", "clip.txt", "clip.jpg", "clip.h264", "clip"])
def test_a_file_under_another_name_is_read(tmp_path: Path, container: str, name: str) -> None:
    write(tmp_path / name, container, NAMES[container], 64, 48, pixel_formats(NAMES[container])[0])
    assert outcome(tmp_path / name, NAMES[container], 64, 48) == "read"


@pytest.mark.parametrize("container", [name for name in NAMES if name != "mpegts"])  # there, FFmpeg calls it damaged
def test_a_single_frame_is_a_video(tmp_path: Path, container: str) -> None:
    write(tmp_path / "clip", container, NAMES[container], 64, 48, pixel_formats(NAMES[container])[0], frames=1)
    assert outcome(tmp_path / "clip", NAMES[container], 64, 48, frames=1) == "read"
    assert probe(tmp_path / "clip").times.duration == 0


@pytest.mark.parametrize("container", NAMES)
def test_a_file_that_was_cut_is_reported_or_has_the_frames_before(tmp_path: Path, container: str) -> None:
    path = tmp_path / "clip"
    write(path, container, NAMES[container], 64, 48, pixel_formats(NAMES[container])[0])
    content = path.read_bytes()
    assert outcome(path, NAMES[container], 64, 48) == "read"
    for tenths in range(10):
        path.write_bytes(content[: len(content) * tenths // 10])
        try:
            seconds = probe(path).times.seconds
        except UserError:
            assert outcome(path, NAMES[container], 64, 48).startswith("reported")
            continue
        images = read_frames(path, range(len(seconds))).float().mean(1).numpy()
        # What the cut took may stand between them.
        numbers = (seconds * RATE).round().astype(int).tolist()
        assert [nearest(image) for image in images] == [(number, "as made") for number in numbers]


# Width and height, some of them of one pixel; what an encoder refuses is left out.
ODD = [(1, 1), (3, 5), (5, 3), (17, 33), (33, 17)]
TAKING = {
    "matroska": ("ffv1", "libvpx-vp9", "mpeg4"),
    "mp4": ("libx264", "libx264rgb"),
    "avi": ("mjpeg", "png", "huffyuv"),
}


@pytest.mark.parametrize(("width", "height"), ODD)
@pytest.mark.parametrize(
    ("container", "encoder"), [(container, encoder) for container, own in TAKING.items() for encoder in own]
)
def test_odd_sizes_are_read(tmp_path: Path, container: str, encoder: str, width: int, height: int) -> None:
    path = tmp_path / "clip"
    for pixels in ("yuv444p", "rgb24", "bgr24", "yuvj444p", "yuv420p"):
        if pixels not in [each.name for each in Codec(encoder, "w").video_formats or []]:
            continue
        try:
            write(path, container, encoder, width, height, pixels)
        except (av.FFmpegError, ValueError):
            continue
        break
    else:
        pytest.skip(f"{encoder} takes no {width}x{height}")
    video = probe(path)
    assert (video.width, video.height, len(video.times)) == (width, height, FRAMES)
    images = read_frames(path, range(FRAMES)).float().mean(1).numpy()
    for number, image in enumerate(images):
        made = picture(number, width, height)[..., 0].astype(float)
        assert np.abs(image - made).mean() < 25


@pytest.mark.parametrize("encoder", ["png", "mjpeg", "bmp", "tiff", "gif", "libwebp", "ppm", "qoi"])
def test_a_still_picture_is_one_frame(tmp_path: Path, encoder: str) -> None:
    path = tmp_path / "picture.mp4"
    pixels = pixel_formats(encoder)[0]
    write(path, "gif" if encoder == "gif" else "image2pipe", encoder, 64, 48, pixels, frames=1)
    assert outcome(path, encoder, 64, 48, frames=1) == "read"


@pytest.mark.parametrize(
    "name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.webm", "clip.mov", "clip.ts", "clip.gif", "clip"]
)
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"file,caption\nclip.mp4,a cat\n"], ids=["empty", "zeros", "text"]
)
def test_a_file_that_is_no_video_is_reported_under_any_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        probe(tmp_path / name)


@pytest.mark.parametrize(("container", "encoder"), [("mp4", "aac"), ("matroska", "mp2"), ("mp2", "mp2")])
def test_sound_alone_is_reported_under_a_videos_name(tmp_path: Path, container: str, encoder: str) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(encoder, rate=16000, layout="mono")
        samples = np.zeros((1, stream.codec_context.frame_size or 1024), dtype=np.float32)
        name = stream.codec_context.format.name
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32 if "flt" in name else np.int16), name, "mono")
        frame.rate = 16000
        for _ in range(8):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(UserError, match=r"clip\.mp4.*no video stream"):
        probe(path)


TURNED = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("clockwise", TURNED)
@pytest.mark.parametrize("container", ["mp4", "mov", "3gp"])
@pytest.mark.parametrize("encoder", ["mpeg4", "tiff"])  # beside a frame of TIFF lies EXIF
def test_a_turned_video_is_read_upright(tmp_path: Path, container: str, encoder: str, clockwise: int) -> None:
    path = tmp_path / "clip"
    try:
        write(path, container, encoder, 64, 48, "yuv420p" if encoder == "mpeg4" else "rgb24")
    except (av.FFmpegError, ValueError):
        pytest.skip(f"{container} does not take {encoder}")
    data = bytearray(path.read_bytes())
    a, b, c, d = (number << 16 for number in TURNED[clockwise])
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    images = read_frames(path, range(FRAMES)).float().mean(1)
    back = torch.rot90(images, clockwise // 90, dims=(1, 2)).numpy()
    assert [nearest(image) for image in back] == [(number, "as made") for number in range(FRAMES)]
    assert (probe(path).height, probe(path).width) == tuple(images.shape[1:])


def test_the_clip_table_says_what_the_files_are(tmp_path: Path) -> None:
    rows = []
    for container, encoder in NAMES.items():
        write(tmp_path / container, container, encoder, 64, 48, pixel_formats(encoder)[0])
        rows.append(listed_row(Clip(container, tmp_path / container, "a bar", "train"), tmp_path))
    look_at(tmp_path / "found.arrow", tmp_path, rows, [], lambda: None)
    found = read_table(tmp_path / "found.arrow").to_pylist()
    assert [row["problem"] for row in found] == [""] * len(NAMES)
    assert [row["codec"] for row in found] == ["h264", "h264", "mpeg4", "vp9", "png", "mpeg2video"]
    assert {(row["width"], row["height"], row["frames"]) for row in found} == {(64, 48, FRAMES)}
    assert [row["duration"] for row in found] == pytest.approx([(FRAMES - 1) / RATE] * len(NAMES), abs=2e-3)


# What the files' own page says: width, height, frames, frames a second.
REAL = {
    "cockatoo.mp4": (1280, 720, 280, 20),
    "arm_wrestling.mp4": (340, 256, 280, 28),
    "pancake.mkv": (426, 240, 310, 30),
    "short.mp4": (320, 240, 36, 30.02),
    "part_0.mp4": (340, 256, 32, 30),
}


@pytest.mark.parametrize("name", REAL)
def test_real_clips_are_read(clips: Path, name: str) -> None:
    width, height, frames, rate = REAL[name]
    video = probe(clips / name)
    assert (video.height, len(video.times), video.codec) == (height, frames, "h264")
    assert video.width == pytest.approx(width * aspect(clips / name), abs=0.5)
    assert float(video.times.duration) == pytest.approx((frames - 1) / rate, abs=1 / rate)
    images = read_frames(clips / name, [0, frames - 1], FrameFormat(64, 64))
    assert images.shape == (2, 3, 64, 64)
    assert images.float().std() > 10


def test_real_cases_are_read_or_reported(cases: Path) -> None:
    assert len(probe(cases / "latin1_title.avi").times) > 1
    with pytest.raises(UserError, match=r"cut_tail\.mp4"):
        probe(cases / "cut_tail.mp4")
