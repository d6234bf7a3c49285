"""Token sources: sequences that somebody has tokenised already, to train on as they are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cogvid.interfaces.component import Component


@dataclass(frozen=True)
class TokenShape:
    """What all sequences of a token source have in common.

    Attributes:
        text: text slots.
        frames: of a sequence.
        frame_tokens: of a frame.
        codes: how many image tokens there are; text tokens are counted from 0, without them.
    """

    text: int
    frames: int
    frame_tokens: int
    codes: int


class TokenSource(Component):
    """Provides sequences of tokens in place of clips: registered as a data source, with no video to decode.

    What it gives is the same in every process (`cogvid.testing.data_source_conformance`). A run on one trains the
    transformers; it has nothing to train a frame tokenizer on and nothing to be compared with.
    """

    shape: TokenShape

    def fingerprint(self) -> str:
        """What the sequences depend on besides the options."""
        return ""

    @abstractmethod
    def check(self) -> None:
        """Look at what is there, before anything is trained.

        Raises:
            UserError: there is nothing to train on; the message names the file and what to do.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Sequences to train on; their numbers count from 0."""

    @property
    def held_out(self) -> range:
        """The numbers of further sequences, which nothing trains on: losses are reported on them."""
        return range(0)

    @abstractmethod
    def sequence(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
        """One sequence, read when it is asked for.

        Returns:
            text tokens (text,), whether each is text and no padding (text,), and codes (frames, frame_tokens).

        Raises:
            UserError: it has tokens that are none; the message names file and row.
        """
