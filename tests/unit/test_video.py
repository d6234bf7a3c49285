from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cogvid import UserError
from cogvid.data.reading import probe, read_frames
from cogvid.data.video import VideoWriter, write_video


def noise(frames: int = 7, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def as_tensor(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def test_lossless_video_keeps_every_pixel(tmp_path: Path) -> None:
    frames = noise()
    write_video(tmp_path / "clip.mp4", frames, fps=8)
    read = read_frames(tmp_path / "clip.mp4", list(range(7)))
    assert torch.equal(read, as_tensor(frames))


def test_a_tensor_is_written_like_the_array_it_equals(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", as_tensor(noise()), fps=8)
    assert torch.equal(read_frames(tmp_path / "clip.mp4", [1]), as_tensor(noise()[1:2]))


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
    read = read_frames(tmp_path / "clip.mp4", [0, 1, 2, 3])
    error = read.float() - torch.from_numpy(colours).float()[:, :, None, None]
    assert error.abs().max() <= 4


def test_a_full_disk_names_the_video_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, noise(2), fps=4)
    (tmp_path / ".clip.mp4.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"clip\.mp4 cannot be written: No space left on device"):
        write_video(path, noise(7), fps=4)
    assert len(probe(path).times) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_missing_folder_is_an_error_that_names_the_video(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere/clip\.mp4"):
        write_video(tmp_path / "nowhere" / "clip.mp4", noise(), fps=4)
