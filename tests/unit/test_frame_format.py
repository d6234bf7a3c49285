"""Pictures made to fit frames of other proportions: synthetic ones, whose right answer is known to the pixel."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cogvid.data.frame_format import Fit, FrameFormat
from cogvid.data.reading import read_frames
from cogvid.data.video import write_video

FITS: tuple[Fit, ...] = get_args(Fit)
COLOUR = torch.tensor([10, 200, 90], dtype=torch.uint8)
lengths = st.integers(1, 70)
frame_lengths = st.integers(2, 70)  # torch itself fails to make a picture of one pixel
aspects = st.sampled_from([Fraction(1), Fraction(16, 15), Fraction(1, 2), Fraction(2)])


def plain(height: int, width: int) -> Tensor:
    """A picture of one colour, none of whose channels is black."""
    return COLOUR[:, None, None].expand(3, height, width).clone()


def places(height: int, width: int) -> Tensor:
    """A picture whose pixels say in red and green which row and column they are."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 7)]).to(torch.uint8)


def quarters(height: int, width: int) -> Tensor:
    """A picture with a colour in each corner: black, red above; green, white below."""
    picture = torch.zeros(3, height, width, dtype=torch.uint8)
    picture[0, :, width // 2 :] = 200
    picture[1, height // 2 :] = 200
    picture[2, height // 2 :, width // 2 :] = 200
    return picture


def fitted(form: FrameFormat, picture: Tensor, aspect: Fraction = Fraction(1)) -> Tensor:
    """What a picture (3, rows, columns) becomes, (3, height, width)."""
    return torch.from_numpy(form.of(picture.permute(1, 2, 0).numpy(), aspect)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("picture", "frame", "top", "left"),
    [
        ((24, 32), (24, 16), 0, 8),
        ((24, 32), (12, 32), 6, 0),
        ((24, 32), (24, 32), 0, 0),
        ((25, 33), (25, 16), 0, 8),
        ((33, 25), (16, 25), 8, 0),
    ],
    ids=str,
)
def test_crop_is_the_middle_to_the_pixel_where_nothing_is_resized(
    picture: tuple[int, int], frame: tuple[int, int], top: int, left: int
) -> None:
    whole = places(*picture)
    cropped = fitted(FrameFormat(*frame, "crop"), whole)
    assert torch.equal(cropped, whole[:, top : top + frame[0], left : left + frame[1]])


def square_crop(image: Tensor, aspect: Fraction, size: int) -> Tensor:
    """The centred square that all frames were before they could be anything else."""
    height, width = image.shape[1:]
    side = min(Fraction(height), width * aspect)
    rows, columns = max(round(side), 1), max(round(side / aspect), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    image = image[:, top : top + rows, left : left + columns]
    if image.shape[1:] == (size, size):
        return image
    return functional.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lengths, lengths, frame_lengths, aspects)
def test_a_square_crop_is_what_it_always_was(height: int, width: int, size: int, aspect: Fraction) -> None:
    picture = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(height), dtype=torch.uint8)
    assert torch.equal(fitted(FrameFormat(size, size), picture, aspect), square_crop(picture, aspect, size))


@pytest.mark.parametrize(
    ("picture", "frame", "box"),
    [
        ((20, 40), (32, 32), (8, 0, 16, 32)),  # smaller
        ((64, 32), (32, 48), (0, 16, 32, 16)),  # portrait into landscape
        ((8, 12), (32, 48), (0, 0, 32, 48)),  # larger, of the same proportions
        ((10, 10), (10, 13), (0, 1, 10, 10)),  # three columns are left: one before, two behind
        ((13, 10), (16, 10), (1, 0, 13, 10)),
        ((7, 5), (16, 9), (1, 0, 13, 9)),  # odd sides: 12.6 rows are 13
        ((1, 1), (5, 8), (0, 1, 5, 5)),
        ((1, 1000), (32, 48), (15, 0, 1, 48)),  # what would be thinner than a pixel is one
        ((480, 640), (32, 48), (0, 2, 32, 43)),
    ],
    ids=str,
)
def test_pad_shows_the_whole_picture_in_the_middle_of_black(
    picture: tuple[int, int], frame: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    padded = fitted(FrameFormat(*frame, "pad"), plain(*picture))
    top, left, height, width = box
    expected = torch.zeros(3, *frame, dtype=torch.uint8)
    expected[:, top : top + height, left : left + width] = COLOUR[:, None, None]
    assert torch.equal(padded, expected)


def test_pad_keeps_pixels_exact_where_nothing_is_resized() -> None:
    padded = fitted(FrameFormat(24, 40, "pad"), places(24, 31))
    assert torch.equal(padded[:, :, 4:35], places(24, 31))
    assert not padded[:, :, :4].any()
    assert not padded[:, :, 35:].any()


@pytest.mark.parametrize("frame", [(16, 24), (24, 16), (64, 96), (21, 33)], ids=str)
@pytest.mark.parametrize("picture", [(40, 20), (20, 40)], ids=str)
def test_stretch_fills_the_frame_with_all_of_the_picture(picture: tuple[int, int], frame: tuple[int, int]) -> None:
    height, width = frame
    stretched = fitted(FrameFormat(height, width, "stretch"), quarters(*picture))
    assert stretched.shape == (3, *frame)
    # Away from where the quarters meet, each has its colour, in its own half of the frame.
    for rows, columns, colour in (
        (slice(0, height // 2 - 3), slice(0, width // 2 - 3), [0, 0, 0]),
        (slice(0, height // 2 - 3), slice(width // 2 + 4, width), [200, 0, 0]),
        (slice(height // 2 + 4, height), slice(0, width // 2 - 3), [0, 200, 0]),
        (slice(height // 2 + 4, height), slice(width // 2 + 4, width), [200, 200, 200]),
    ):
        part = stretched[:, rows, columns]
        assert part.numel()
        assert torch.equal(part, torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand_as(part))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(lengths, lengths, frame_lengths, frame_lengths, aspects, st.sampled_from(FITS))
def test_every_picture_becomes_a_frame_of_its_colour(
    rows: int, columns: int, height: int, width: int, aspect: Fraction, fit: Fit
) -> None:
    frame = fitted(FrameFormat(height, width, fit), plain(rows, columns), aspect)
    assert (frame.dtype, frame.shape) == (torch.uint8, (3, height, width))
    shown = (frame > 0).any(0)
    assert torch.equal(frame[:, shown], COLOUR[:, None].expand(3, int(shown.sum())))
    if fit != "pad":
        assert shown.all()
        return
    # One block in the middle, as large as fits, of the picture's proportions to half a pixel.
    block = [torch.nonzero(shown.any(1 - axis))[:, 0] for axis in (0, 1)]
    assert shown.sum() == len(block[0]) * len(block[1])
    for own, side in zip(block, (height, width), strict=True):
        before, behind = int(own[0]), side - 1 - int(own[-1])
        assert behind - before in (0, 1)
    scale = min(Fraction(height, rows), width / (columns * aspect))
    for own, exact in zip(block, (rows * scale, columns * aspect * scale), strict=True):
        assert abs(len(own) - exact) <= Fraction(1, 2) or (len(own) == 1 and exact < 1)
    assert len(block[0]) == height or len(block[1]) == width


@pytest.mark.parametrize("fit", FITS)
def test_smaller_frames_average_pixels(fit: Fit) -> None:
    picture = torch.zeros(3, 64, 96, dtype=torch.uint8)
    picture[:, ::4] = 200  # any row picked out alone is much darker or much brighter than the average
    frame = fitted(FrameFormat(8, 12, fit), picture).float()
    assert (frame - 50).abs().max() <= 15


def test_pixels_that_are_not_square_count_as_wide_as_they_are_shown() -> None:
    picture, aspect = quarters(32, 32), Fraction(2)  # a picture twice as wide as high
    padded = fitted(FrameFormat(32, 32, "pad"), picture, aspect)
    assert not padded[:, :8].any()
    assert not padded[:, 24:].any()
    assert (padded[:, 23, -1] == 200).all()
    assert torch.equal(
        fitted(FrameFormat(32, 64, "pad"), picture, aspect), fitted(FrameFormat(32, 64, "stretch"), picture)
    )
    assert torch.equal(
        fitted(FrameFormat(32, 64, "crop"), picture, aspect), fitted(FrameFormat(32, 64, "stretch"), picture)
    )
    middle = picture[:, :, 12:20]
    assert torch.equal(
        fitted(FrameFormat(32, 16, "crop"), picture, aspect), fitted(FrameFormat(32, 16, "stretch"), middle)
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(24, 40), (40, 24), (13, 9)], ids=str)
def test_frames_of_a_file_are_its_pictures_made_to_fit(tmp_path: Path, fit: Fit, size: tuple[int, int]) -> None:
    pictures = torch.randint(256, (3, 3, 24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_video(tmp_path / "clip.mp4", pictures, fps=4)
    form = FrameFormat(*size, fit)
    frames = read_frames(tmp_path / "clip.mp4", [2, 0], form)
    assert torch.equal(frames, torch.stack([fitted(form, pictures[2]), fitted(form, pictures[0])]))
