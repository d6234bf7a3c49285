"""Text tokenizers: what a sequence is conditioned on, as tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from cogvid.interfaces.component import Component


def with_duration(caption: str, seconds: float) -> str:
    """A sequence's length in seconds, then its caption (CogVideo, section 3.1)."""
    return f"{seconds:.3g} s: {caption.strip()}".strip()


class TextTokenizer(Component):
    """Texts to tokens, which count from 0.

    A model is conditioned on a caption in one of three forms: of a first frame, of a video that lasts some seconds,
    and of a video without its caption, which is what guidance goes away from. Forms are tokens, not texts: the
    released model's have a token in their midst that no text stands for.

    Attributes:
        vocabulary: number of tokens; known once it is trained, or loaded.
        begin_of_image: the token that stands for the beginning of an image, if it has one; None for one of the
            model's own, which comes before the text tokens.
        padding: the token that fills slots without text.
    """

    vocabulary: int
    begin_of_image: int | None = None
    padding: int = 0

    def check(self) -> None:
        """Refuse what cannot work, such as a file that is not there; called before anything is made.

        Raises:
            UserError: it cannot; the message names the option.
        """

    def train(self, captions: Iterable[tuple[str, float]]) -> None:
        """Learn tokens, the same ones from the same captions; nothing by default: for one that was trained elsewhere.

        Args:
            captions: of the training clips, each with every duration in seconds that it is asked for with, 0 for a
                first frame. There may be millions, which can be read once.
        """

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text as it is."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, for people to read; their numbers by default."""
        return " ".join(map(str, tokens))

    @abstractmethod
    def ends(self, text: str) -> list[int]:
        """How many characters of a text are behind it at the end of each of its tokens."""

    def video(self, caption: str, seconds: float) -> list[int]:
        """The tokens that a video of a caption is conditioned on."""
        return self.encode(with_duration(caption, seconds))

    def first_frame(self, caption: str) -> list[int]:
        """The tokens that the first frame of a caption is conditioned on; by default, those of a video of no length."""
        return self.video(caption, 0.0)

    def guidance(self, seconds: float) -> list[int]:
        """The tokens of a video without its caption; 0 seconds for a first frame."""
        return self.video("", seconds)

    def readable(self, caption: str) -> str:
        """A caption without the characters that mean nothing to the model."""
        return caption

    def cut(self, caption: str, tokens: int) -> str:
        """The longest beginning of a caption which ends where one of its tokens does, and has at most `tokens`."""
        ends = self.ends(caption)
        if len(ends) <= tokens:
            return caption
        # A token may end in the midst of a character, whose other part then comes along.
        beginnings = (caption[: ends[count - 1]] for count in range(tokens, 0, -1))
        return next((text for text in beginnings if len(self.encode(text)) <= tokens), "")

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write all that `load` needs into a folder, in files that hold nothing to execute."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: it cannot be read.
        """
