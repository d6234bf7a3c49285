"""Training samples out of sequences that are tokens already, each a function of its number."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cogvid.data.samples import shuffled
from cogvid.data.text import CaptionEncoder
from cogvid.errors import UserError
from cogvid.interfaces.token_source import TokenSource

# How texts say a duration: "4.0秒" as the release's, "4 s:" as cogvid's own.
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:秒|s:)")


@dataclass(frozen=True)
class RowSamples(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The sequences of a token source, whole or one frame of each, with the texts that they have.

    Attributes:
        source: of the sequences.
        text: whose vocabulary the texts are in; encodes those that take the place of one that is left out.
        seed: of the stage.
        stills: share of the samples that are one frame from anywhere in a sequence, the others being first frames; None
            for whole sequences.
        caption_dropout: share of the sequences whose caption is left out, for guidance.
        rows: of the source, to draw from; None for those to train on.
    """

    source: TokenSource
    text: CaptionEncoder
    seed: int
    stills: float | None = None
    caption_dropout: float = 0.0
    rows: range | None = None

    def place(self, number: int) -> int:
        """Which sequence a sample is from: each once an epoch, in an order of the epoch's own."""
        rows = range(len(self.source)) if self.rows is None else self.rows
        return rows[shuffled(number, len(rows), self.seed)]

    def name(self, number: int) -> str:
        """What tells people which sample it is: the row."""
        return f"row {self.place(number)}"

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Codes int64 (F, N), text tokens int64 (T,) as the model reads them, and text mask bool (T,)."""
        row = self.place(number)
        words, there, codes = self.source.sequence(row)
        if self.stills is not None:
            random = np.random.default_rng((self.seed, number, 3))
            frame = int(random.integers(len(codes))) if random.random() < self.stills else 0
            codes = codes[frame : frame + 1]
        if words[there].max() >= self.text.tokenizer.vocabulary:
            raise UserError(
                f"data: row {row} has the text token {words[there].max()}, and the text tokenizer has "
                f"{self.text.tokenizer.vocabulary}. Set text_tokenizer to the one that the rows were made with."
            )
        if np.random.default_rng((self.seed, number, 2)).random() < self.caption_dropout:
            ((text,), (mask,)) = self.text.encode([None], [self._seconds(row, words[there].tolist())])
        else:
            text, mask = self.text.slots(torch.from_numpy(words)), torch.from_numpy(there)
        return torch.from_numpy(codes), text, mask

    def _seconds(self, row: int, words: list[int]) -> float:
        said = self.text.tokenizer.decode(words)
        found = _DURATION.match(said)
        if found is None:
            raise UserError(
                f"data: the text of row {row} begins with no duration, which a sequence without its caption needs: "
                f"{said!r}. Set caption_dropout to 0 in every stage."
            )
        return float(found[1])
