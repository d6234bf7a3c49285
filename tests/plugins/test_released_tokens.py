"""The release's training file: rows of tokens, read where they lie."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cogvid import UserError, create_component
from cogvid.interfaces.token_source import TokenShape, TokenSource

OPTIONS = {"text": 4, "frames": 2, "frame_tokens": 3, "image_tokens": 10, "padding": 13}


def rows() -> np.ndarray:
    text = [[13, 13, 11, 19], [12, 13, 14, 15]]  # a padding token inside a text is text
    return np.hstack([text, np.arange(12).reshape(2, 6) % 10]).astype("<i4")


def source(path: Path, content: np.ndarray, **options: int) -> TokenSource:
    path.write_bytes(content.tobytes())
    made = create_component("data", "released_tokens", {"path": str(path), **OPTIONS, **options})
    assert isinstance(made, TokenSource)
    return made


def test_a_row_is_text_without_image_tokens_its_mask_and_frames(tmp_path: Path) -> None:
    data = source(tmp_path / "train.bin", rows())
    data.check()
    assert (len(data), data.shape) == (2, TokenShape(4, 2, 3, 10))
    text, there, codes = data.sequence(0)
    assert text[there].tolist() == [1, 9]
    assert there.tolist() == [False, False, True, True]
    assert codes.tolist() == [[0, 1, 2], [3, 4, 5]]
    text, there, codes = data.sequence(1)
    assert text.tolist() == [2, 3, 4, 5]
    assert there.all()
    assert codes.tolist() == [[6, 7, 8], [9, 0, 1]]


def test_the_release_has_rows_of_64_and_2000() -> None:
    made = create_component("data", "released_tokens", {"path": "train.bin"})
    assert made.shape == TokenShape(64, 5, 400, 20000)


@pytest.mark.parametrize(
    ("column", "token", "message"),
    [
        (5, 10, "row 1 has 10 among the image tokens, which are 0 to 9"),
        (9, -1, "row 1 has -1 among the image tokens"),
        (3, 9, "row 1 has 9 among the text tokens, which begin at 10"),
    ],
)
def test_tokens_that_are_none_are_named_with_their_row(tmp_path: Path, column: int, token: int, message: str) -> None:
    content = rows()
    content[1, column] = token
    with pytest.raises(UserError, match=message):
        source(tmp_path / "train.bin", content).check()


def test_a_row_without_text_is_refused(tmp_path: Path) -> None:
    content = rows()
    content[0, :4] = 13
    with pytest.raises(UserError, match=r"train\.bin: row 0 has no text"):
        source(tmp_path / "train.bin", content).check()


def test_the_last_rows_can_be_held_out_and_are_checked_too(tmp_path: Path) -> None:
    content = rows()
    content[1, 5] = 10
    data = source(tmp_path / "train.bin", content, held_out=1)
    assert (len(data), list(data.held_out)) == (1, [1])
    assert not source(tmp_path / "train.bin", content).held_out
    with pytest.raises(UserError, match="row 1 has 10 among the image tokens"):
        data.check()
    with pytest.raises(UserError, match=r"train\.bin has 2 rows, and held_out of released_tokens is 2"):
        source(tmp_path / "train.bin", rows(), held_out=2).check()


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_file_of_another_row_length_is_refused_with_both(tmp_path: Path, cut: int) -> None:
    data = source(tmp_path / "train.bin", rows())
    with (tmp_path / "train.bin").open("r+b") as file:
        file.truncate([0, 39, 41][cut])
    with pytest.raises(UserError, match=r"train\.bin has \d+ bytes, .* rows of 40 bytes: 4 text tokens and 2 frames"):
        data.fingerprint()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    data = create_component("data", "released_tokens", {"path": str(tmp_path / "none.bin")})
    with pytest.raises(UserError, match=r"none\.bin cannot be read: No such file"):
        data.check()


def test_another_file_is_another_fingerprint_and_the_source_goes_to_other_processes(tmp_path: Path) -> None:
    data = source(tmp_path / "train.bin", rows())
    before = data.fingerprint()
    assert pickle.loads(pickle.dumps(data)).sequence(1)[0].tolist() == [2, 3, 4, 5]
    assert source(tmp_path / "train.bin", np.vstack([rows(), rows()])).fingerprint() != before
