"""Captions to the text slots of a sequence, in the model's vocabulary: image tokens, begin-of-image, text tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cogvid.errors import UserError
from cogvid.interfaces.text_tokenizer import TextTokenizer


@dataclass(frozen=True)
class CaptionEncoder:
    """Encodes captions in the form that a model is asked in.

    Attributes:
        tokenizer: trained.
        length: T, text slots of a sequence.
        image_vocabulary: number of image tokens, which come first in the model's vocabulary.
        cut: captions that are too long, rather than refusing them.
    """

    tokenizer: TextTokenizer
    length: int
    image_vocabulary: int
    cut: bool = True

    @property
    def begin_of_image(self) -> int:
        """The token of a frame's slot 0."""
        return self.image_vocabulary + (self.tokenizer.begin_of_image or 0)

    @property
    def vocabulary(self) -> int:
        """Number of all tokens of the model."""
        return self._first + self.tokenizer.vocabulary

    @property
    def _first(self) -> int:
        """The first text token."""
        return self.image_vocabulary + (self.tokenizer.begin_of_image is None)

    def encode(self, captions: Sequence[str | None], seconds: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Captions to left-padded tokens.

        Args:
            captions: B captions; None for a sequence without one, as guidance wants it.
            seconds: B durations of the sequences; 0 for a first frame.

        Returns:
            tokens int64 (B, T) and mask bool (B, T), False for padding.

        Raises:
            UserError: a caption has characters that the tokenizer cannot read, or is too long.
        """
        tokens = torch.full((len(captions), self.length), self.tokenizer.padding + self._first)
        mask = torch.zeros(len(captions), self.length, dtype=torch.bool)
        for row, (caption, own) in enumerate(zip(captions, seconds, strict=True)):
            ids = self.fitting(caption, own)[1]
            tokens[row, self.length - len(ids) :] = torch.tensor(ids) + self._first
            mask[row, self.length - len(ids) :] = True
        return tokens, mask

    def slots(self, tokens: Tensor) -> Tensor:
        """Text tokens in the model's vocabulary."""
        return tokens + self._first

    def fits(self, caption: str, seconds: float) -> bool:
        """Whether there is room for all of a caption."""
        return len(self._form(caption, seconds)) <= self.length

    def kept(self, caption: str, seconds: Iterable[float]) -> str:
        """What of a caption there is room for, whichever of these durations it has.

        Raises:
            UserError: as `encode` does.
        """
        return min((self.fitting(caption, own)[0] or "" for own in seconds), key=len)

    def _form(self, caption: str | None, seconds: float) -> list[int]:
        if caption is None:
            return self.tokenizer.guidance(seconds)
        return self.tokenizer.video(caption, seconds) if seconds else self.tokenizer.first_frame(caption)

    def fitting(self, caption: str | None, seconds: float) -> tuple[str | None, list[int]]:
        """What there is room for of a caption, and the text tokens of its form.

        Args:
            caption: None for a sequence without one.
            seconds: of the sequence; 0 for a first frame.

        Raises:
            UserError: as `encode` does.
        """
        if caption is not None:
            self._check(caption)
        ids = self._form(caption, seconds)
        if not ids:
            raise UserError(f"The text of {caption!r}, {seconds:g} seconds long, has 0 tokens; it needs one at least.")
        if len(ids) <= self.length:
            return caption, ids
        if caption and not self.cut:
            raise UserError(
                f"{caption!r} has {len(ids)} tokens with its duration; a sequence has room for {self.length}. Shorten "
                "the caption, raise text.length and train again, or set text.too_long to cut."
            )
        room = self.length - len(self._form("", seconds))
        while caption and len(ids) > self.length:
            caption = self.tokenizer.cut(caption, room) if room > 0 else ""
            ids = self._form(caption, seconds)
            room -= 1
        if len(ids) > self.length:
            raise UserError(
                f"text.length: a sequence of {seconds:g} seconds has {len(ids)} tokens of text without a caption; "
                f"there is room for {self.length}. Raise text.length."
            )
        return caption, ids

    def _check(self, caption: str) -> None:
        readable = self.tokenizer.readable(caption)
        if readable != caption:
            unknown = " ".join(map(repr, sorted(set(caption) - set(readable))))
            raise UserError(
                f"{caption!r} has characters that the text tokenizer cannot read: {unknown}. The model cannot know "
                "what they mean; write the prompt without them."
            )
