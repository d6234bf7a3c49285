from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from cogvid import UserError
from cogvid.data.video import VideoWriter, probe, read_frames, write_video

# The display matrices (ISO 14496-12) that turn a track by quarter turns clockwise, without the offset.
CLOCKWISE = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def noise(frames: int = 7, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def set_rotation(path: Path, clockwise: int) -> None:
    """Write a display matrix into the track header of an mp4 file, as a phone does."""
    a, b, c, d = CLOCKWISE[clockwise]
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


def test_lossless_video_keeps_every_pixel(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    read = read_frames(tmp_path / "clip.mp4", [k / 8 for k in range(7)])
    assert torch.equal(read, as_tensor(frames))


def test_a_tensor_is_written_like_the_array_it_equals(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", as_tensor(noise()), fps=8)
    assert torch.equal(read_frames(tmp_path / "clip.mp4", [0.125]), as_tensor(noise()[1:2]))


@pytest.mark.parametrize("lossless", [True, False])
def test_frames_written_piece_by_piece_give_the_same_file(tmp_path: Path, lossless: bool) -> None:
    write_video(tmp_path / "whole.mp4", noise(), 8, lossless)
    with VideoWriter(tmp_path / "pieces.mp4", 8, lossless) as writer:
        writer.add(noise()[:1])
        writer.add(as_tensor(noise()[1:5]))
        assert not (tmp_path / "pieces.mp4").exists()
        writer.add(noise()[5:])
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


@pytest.mark.parametrize("written", [0, 3])
def test_an_error_among_the_frames_leaves_no_file(tmp_path: Path, written: int) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"older")

    def interrupted() -> None:
        with VideoWriter(tmp_path / "clip.mp4", 8) as writer:
            writer.add(noise()[:written])
            raise RuntimeError("no more frames")

    with pytest.raises(RuntimeError, match="no more frames"):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"


def test_lossy_video_has_the_colours_of_its_frames_and_even_sides(tmp_path: Path) -> None:
    colours = np.array([[225, 30, 30], [30, 185, 45], [35, 50, 225], [240, 225, 30]], dtype=np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 31, 33, 3))
    write_video(tmp_path / "clip.mp4", frames, fps=4, lossless=False)
    info = probe(tmp_path / "clip.mp4")
    assert (info.width, info.height) == (34, 32)
    read = read_frames(tmp_path / "clip.mp4", [0, 0.25, 0.5, 0.75])
    error = read.float() - torch.from_numpy(colours).float()[:, :, None, None]
    assert error.abs().max() <= 4


@pytest.mark.parametrize("lossless", [True, False])
def test_probe_counts_every_frame_at_its_time(tmp_path: Path, lossless: bool) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=12.5, lossless=lossless)
    info = probe(tmp_path / "clip.mp4")
    np.testing.assert_allclose(info.timestamps, np.arange(7) / 12.5, atol=1e-4)
    assert info.duration == pytest.approx(6 / 12.5, abs=1e-4)


def test_a_time_gets_the_last_frame_shown_at_or_before_it(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=4)
    times = [1.0, 0.24, -3.0, 0.2499999, 0.26, 99.0, 1.0]
    read = read_frames(tmp_path / "clip.mp4", times)
    assert torch.equal(read, as_tensor(noise())[[4, 0, 0, 1, 1, 6, 4]])


def test_frames_of_a_variable_rate_are_found_by_their_times(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    write_at(path, noise(4), [500, 600, 1500, 1533])
    np.testing.assert_allclose(probe(path).timestamps, [0, 0.1, 1.0, 1.033], atol=1e-3)
    read = read_frames(path, [0.05, 0.1, 0.99, 1.02, 1.5])
    assert torch.equal(read, as_tensor(noise(4))[[0, 1, 1, 2, 3]])


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_rotation_in_the_metadata_is_applied(tmp_path: Path, clockwise: int) -> None:
    path = tmp_path / "phone.mp4"
    write_video(path, noise(), fps=4)
    set_rotation(path, clockwise)
    expected = torch.rot90(as_tensor(noise()), -clockwise // 90, dims=(2, 3))
    assert torch.equal(read_frames(path, [0, 1]), expected[[0, 4]])
    info = probe(path)
    assert (info.height, info.width) == tuple(expected.shape[2:])


def test_size_takes_the_centred_square_and_averages_its_pixels(tmp_path: Path) -> None:
    frames = np.zeros((1, 16, 48, 3), dtype=np.uint8)
    # One bright row in four: any row picked out alone is much darker or much brighter than the average.
    frames[:, ::4, 16:32] = 200
    frames[:, :, :16] = frames[:, :, 32:] = 255
    write_video(tmp_path / "clip.mp4", frames, fps=1)
    read = read_frames(tmp_path / "clip.mp4", [0], size=4).float()
    assert read.shape == (1, 3, 4, 4)
    assert (read - 50).abs().max() <= 15


def test_frames_that_have_the_size_already_stay_exact(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", noise(), fps=4)
    read = read_frames(tmp_path / "clip.mp4", [0], size=24)
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


def test_a_full_disk_names_the_video_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(2), fps=4)
    (tmp_path / ".clip.mp4.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"clip\.mp4 cannot be written: No space left on device"):
        write_video(path, noise(7), fps=4)
    assert len(probe(path).timestamps) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_missing_folder_is_an_error_that_names_the_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/clip\.mp4"):
        write_video(tmp_path / "nowhere" / "clip.mp4", noise(), fps=4)
