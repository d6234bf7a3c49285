"""Data source `released_tokens`: the training file of CogVideo's 2022 release, tokens and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

import cogvid
from cogvid.config.ranges import at_least, file_name, option
from cogvid.interfaces.token_source import TokenShape, TokenSource
from cogvid_plugins.data.trees import file_state

# Rows that are looked at before anything is trained, spread over the file; each row again when it is drawn.
_TRIED = 1000


class ReleasedTokens(TokenSource):
    """Rows of int32 (little-endian), one a sequence: 64 text tokens, padded on the left, and five frames of 400 image
    tokens. Tokens are numbered as in the release: image tokens, then the text model's. The file is memory-mapped."""

    @dataclass
    class Config:
        """`path`: the file; `text`, `frames`, `frame_tokens`: of a row; `image_tokens`: how many there are, which is
        the number of the first text token; `padding`: what stands in front of a text; `held_out`: rows at the end of
        the file that nothing trains on, to report losses on."""

        path: str = option(MISSING, file_name())
        text: int = option(64, at_least(1))
        frames: int = option(5, at_least(1))
        frame_tokens: int = option(400, at_least(1))
        image_tokens: int = option(20000, at_least(1))
        padding: int = option(20003, at_least(0))
        held_out: int = option(0, at_least(0))

    def __init__(self, config: object = None) -> None:
        super().__init__(config)
        c = self.config
        self.shape = TokenShape(c.text, c.frames, c.frame_tokens, c.image_tokens)

    def fingerprint(self) -> str:
        """Size and time of the file."""
        return file_state(self._checked())

    def check(self) -> None:
        """See `TokenSource`; every row is looked at again when it is drawn."""
        rows = len(self._rows)
        if self.config.held_out >= rows:
            raise cogvid.UserError(
                f"{self._path} has {rows} rows, and held_out of released_tokens is {self.config.held_out}: none would "
                "be left to train on. Lower it."
            )
        for number in np.unique(np.linspace(0, rows - 1, min(rows, _TRIED)).astype(int)).tolist():
            self.sequence(number)

    def __len__(self) -> int:
        return len(self._rows) - self.config.held_out

    @property
    def held_out(self) -> range:
        """See `TokenSource`: the last rows."""
        return range(len(self), len(self._rows))

    def sequence(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """See `TokenSource`."""
        c, row = self.config, self._rows[number].astype(np.int64)
        text, codes = row[: c.text], row[c.text :]
        there = np.logical_or.accumulate(text != c.padding)
        image = codes[(codes < 0) | (codes >= c.image_tokens)]
        words = text[there & (text < c.image_tokens)]
        if len(image) or len(words) or not there.any():
            wrong = (
                f"{image[0]} among the image tokens, which are 0 to {c.image_tokens - 1}"
                if len(image)
                else f"{words[0]} among the text tokens, which begin at {c.image_tokens}"
                if len(words)
                else "no text, only padding"
            )
            raise cogvid.UserError(
                f"{self._path}: row {number} has {wrong}. Rows are {c.text} text tokens, then {c.frames} frames of "
                f"{c.frame_tokens} image tokens, little-endian int32; see the options of released_tokens."
            )
        return np.where(there, text - c.image_tokens, 0), there, codes.reshape(c.frames, c.frame_tokens)

    @property
    def _path(self) -> Path:
        return Path(self.config.path).expanduser()

    def _checked(self) -> Path:
        path, c = self._path, self.config
        row = 4 * (c.text + c.frames * c.frame_tokens)
        try:
            size = path.stat().st_size
            with path.open("rb"):
                pass
        except OSError as error:
            raise cogvid.UserError(
                f"The token file {path} cannot be read: {error.strerror}. Set the option path of the data source "
                "'released_tokens'; a relative path starts at the current directory."
            ) from error
        if size == 0 or size % row:
            raise cogvid.UserError(
                f"{path} has {size} bytes, which is no whole number of rows of {row} bytes: {c.text} text tokens and "
                f"{c.frames} frames of {c.frame_tokens} image tokens, each an int32. Set text, frames and frame_tokens "
                "of released_tokens to what the file has."
            )
        return path

    @cached_property
    def _rows(self) -> NDArray[np.int32]:
        columns = self.config.text + self.config.frames * self.config.frame_tokens
        rows: NDArray[np.int32] = np.memmap(self._checked(), dtype="<i4", mode="r").reshape(-1, columns)
        return rows


@cogvid.hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `released_tokens`."""
    return {"released_tokens": ReleasedTokens}
