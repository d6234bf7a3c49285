"""Video files as people have them: what is read of them, as a player shows it, and what is refused."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from cogvid import UserError
from cogvid.data.frame_format import Fit, FrameFormat
from cogvid.data.reading import probe, read_frames
from cogvid.data.video import write_video

# The display matrices (ISO 14496-12) that turn a track by quarter turns clockwise, without the offset.
CLOCKWISE = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
# ... and those that mirror it: left and right, top and bottom, both with a quarter turn.
MIRRORED = {"left-right": (-1, 0, 0, 1), "top-bottom": (1, 0, 0, -1), "diagonal": (0, 1, 1, 0)}


def noise(frames: int = 7, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a display matrix into the track header of an mp4 file, as a phone does."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one, full = 1 << 16, 1 << 30
    struct.pack_into(">9i", data, matrix, a * one, b * one, 0, c * one, d * one, 0, 0, 0, full)
    path.write_bytes(data)


def write_at(path: Path, frames: np.ndarray, milliseconds: list[int]) -> None:
    """A video of variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", options={"crf": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        stream.codec_context.time_base = Fraction(1, 1000)
        for array, time in zip(frames, milliseconds, strict=True):
            frame = VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("lossless", [True, False])
def test_probe_counts_every_frame_at_its_time(tmp_path: Path, lossless: bool) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=12.5, lossless=lossless)
    info = probe(tmp_path / "clip.mp4")
    assert info.times.duration == 6 / Fraction("12.5")
    np.testing.assert_allclose(info.times.seconds, np.arange(7) / 12.5)


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotation_in_the_metadata_is_applied(tmp_path: Path, clockwise: int) -> None:
    path = tmp_path / "phone.mp4"
    write_video(path, noise(), fps=4)
    set_matrix(path, *CLOCKWISE[clockwise])
    expected = torch.rot90(as_tensor(noise()), -clockwise // 90, dims=(2, 3))
    assert torch.equal(read_frames(path, [0, 4]), expected[[0, 4]])
    info = probe(path)
    assert (info.height, info.width) == tuple(expected.shape[2:])


@pytest.mark.parametrize(("kind", "axes"), [("left-right", (3,)), ("top-bottom", (2,)), ("diagonal", None)], ids=str)
def test_mirroring_in_the_metadata_is_applied(tmp_path: Path, kind: str, axes: tuple[int, ...] | None) -> None:
    path = tmp_path / "selfie.mp4"
    write_video(path, noise(), fps=4)
    set_matrix(path, *MIRRORED[kind])
    frames = as_tensor(noise())
    expected = frames.flip(axes) if axes else frames.transpose(2, 3)
    assert torch.equal(read_frames(path, [0, 4]), expected[[0, 4]])
    assert (probe(path).height, probe(path).width) == tuple(expected.shape[2:])


def write_h264(path: Path, frames: np.ndarray, rate: Fraction | int = 25, aspect: int = 1, **options: str) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "1", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        for array in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def grey(frames: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Frame i is all 5 i."""
    return np.full((frames, height, width, 3), 5 * np.arange(frames)[:, None, None, None], dtype=np.uint8)


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.mp4"])
def test_b_frames_come_in_the_order_they_are_shown_in_whatever_the_container_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_h264(path, grey(40), bf="3", **{"x264-params": "b-adapt=0"})
    times = probe(path).times
    assert len(times) == 40
    np.testing.assert_allclose(times.seconds, np.arange(40) / 25, atol=1e-3)
    shown = read_frames(path, range(40)).float().mean((1, 2, 3))
    assert (shown - 5 * torch.arange(40)).abs().max() < 2


def test_frames_packed_two_in_a_packet_come_in_the_order_they_are_shown_in(tmp_path: Path) -> None:
    encoder = av.CodecContext.create("mpeg4", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 32, 32, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10)
    encoder.options = {"bf": "1", "b_strategy": "0", "sc_threshold": "1000000000"}
    packets = []
    for number, array in enumerate(grey(11)):
        frame = VideoFrame.from_ndarray(array, format="rgb24")
        frame.pts, frame.time_base = number, encoder.time_base
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    packets += [bytes(packet) for packet in encoder.encode(None)]
    # DivX says so in its name, puts a B-frame behind the one it needs, and an empty frame into the next packet.
    head, picture = packets[0].split(b"\0\0\1\xb6", 1)
    packed = [head.replace(b"Lavc", b"XXXX") + b"\0\0\1\xb2DivX503b1393p\0\0\1\xb6" + picture]
    for number in range(1, len(packets), 2):
        packed += [packets[number] + packets[number + 1], b"\0\0\1\xb6\x56\x40\x7f"]
    path = tmp_path / "packed.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for number, content in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), number == 0
            packet.pts = packet.dts = number
            container.mux(packet)
    assert probe(path).times.ticks.tolist() == list(range(11))
    shown = read_frames(path, range(11)).float().mean((1, 2, 3))
    assert (shown - 5 * torch.arange(11)).abs().max() < 3


def test_a_name_with_a_colon_is_the_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("clip.mp4"), noise(), fps=4)
    assert len(probe(Path("clip.mp4").rename("cat:one.mp4")).times) == 7


def test_pixels_that_are_not_square_are_stretched_to_the_picture_that_a_player_shows(tmp_path: Path) -> None:
    path = tmp_path / "dv.mp4"
    frames = grey(3, height=64, width=32)
    frames[:, :, :16] = 255  # the left half of a square picture
    write_h264(path, frames, aspect=2)
    assert (probe(path).width, probe(path).height) == (64, 64)
    for form in (None, FrameFormat(16, 16)):
        picture = read_frames(path, [0], form)[0].float().mean((0, 1))
        quarter = len(picture) // 4
        assert picture[:quarter].min() > 250
        assert picture[-quarter:].max() < 5


def test_a_stretched_picture_is_cropped_to_the_middle_of_what_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    frames = grey(1, height=32, width=32)
    frames[:, :, 8:24] = 255  # the middle half of a picture twice as wide as high: its centred square
    write_h264(path, frames, aspect=2)
    assert read_frames(path, [0], FrameFormat(32, 32)).min() > 240


@pytest.mark.parametrize("fit", get_args(Fit))
def test_a_turned_picture_is_made_to_fit_as_it_is_shown(tmp_path: Path, fit: Fit) -> None:
    path, form = tmp_path / "phone.mp4", FrameFormat(16, 40, fit)
    write_video(path, noise(), fps=4)
    set_matrix(path, *CLOCKWISE[90])
    upright = np.rot90(noise()[0], -1)
    assert np.array_equal(read_frames(path, [0], form)[0].permute(1, 2, 0), form.of(upright))


def test_metadata_in_another_encoding_is_no_reason_to_refuse_a_video(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafXX"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for array in grey(4):
            container.mux(stream.encode(VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"cafXX", "café ".encode("latin-1")))
    with pytest.raises(UnicodeDecodeError), av.open(str(path)):
        pass
    assert len(probe(path).times) == 4


def test_a_codec_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    write_h264(path, grey(4))
    path.write_bytes(path.read_bytes().replace(b"H264", b"XXYY"))
    with pytest.raises(UserError, match=r"clip\.avi.*codec"):
        probe(path)


def test_a_file_damaged_behind_its_first_frame_is_named_with_the_frames_before(cases: Path) -> None:
    with pytest.raises(UserError, match=r"cut_tail\.mp4.*after 18 frames"):
        probe(cases / "cut_tail.mp4")


def test_a_time_stamp_years_later_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    year = 365 * 24 * 3600 * 1000
    write_at(path, noise(4), [0, 100, 200, 3 * year])
    with pytest.raises(UserError, match=r"clip\.mkv.*frame 3 is shown .* hours after"):
        probe(path)


def test_a_frame_that_a_video_does_not_have_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=4)
    with pytest.raises(UserError, match=r"clip\.mp4.*no frame 7"):
        read_frames(tmp_path / "clip.mp4", [7])


def test_frames_are_given_in_the_order_and_as_often_as_they_are_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=4)
    read = read_frames(tmp_path / "clip.mp4", [4, 0, 6, 0])
    assert torch.equal(read, as_tensor(noise())[[4, 0, 6, 0]])


def test_size_takes_the_centred_square_and_averages_its_pixels(tmp_path: Path) -> None:
    frames = np.zeros((1, 16, 48, 3), dtype=np.uint8)
    # One bright row in four: any row picked out alone is much darker or much brighter than the average.
    frames[:, ::4, 16:32] = 200
    frames[:, :, :16] = frames[:, :, 32:] = 255
    write_video(tmp_path / "clip.mp4", frames, fps=1)
    read = read_frames(tmp_path / "clip.mp4", [0], FrameFormat(4, 4)).float()
    assert read.shape == (1, 3, 4, 4)
    assert (read - 50).abs().max() <= 15


def test_frames_that_have_the_size_already_stay_exact(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=4)
    read = read_frames(tmp_path / "clip.mp4", [0], FrameFormat(24, 24))
    assert torch.equal(read, as_tensor(noise())[:1, :, :, 4:28])


@pytest.mark.parametrize("content", [b"", b"no video\n" * 50], ids=["empty", "text"])
@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, [0])], ids=["probe", "read_frames"])
def test_a_file_that_is_no_video_is_named(tmp_path: Path, content: bytes, read) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.mp4"):
        read(path)


@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, [0])], ids=["probe", "read_frames"])
def test_a_missing_file_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match=r"gone\.mp4.*No such file"):
        read(tmp_path / "gone.mp4")


@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, [0])], ids=["probe", "read_frames"])
def test_a_file_with_sound_only_is_named(tmp_path: Path, read) -> None:
    path = tmp_path / "song.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(UserError, match=r"song\.wav.*no video stream"):
        read(path)


@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, [0])], ids=["probe", "read_frames"])
def test_a_file_that_ends_before_its_first_frame_is_named(tmp_path: Path, read) -> None:
    path = tmp_path / "cut.mkv"
    write_at(path, noise(4), [0, 100, 200, 300])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UserError, match=r"cut\.mkv"):
        read(path)
