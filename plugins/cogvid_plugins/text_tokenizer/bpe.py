"""Text tokenizer `bpe`: byte-level byte-pair encoding, trained on the captions of an experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import cogvid
from cogvid.config.ranges import at_least, option
from cogvid.interfaces.text_tokenizer import with_duration

_FILE = "text.json"
# Of durations.
_ALWAYS = "0123456789. s:e-+"


class BytePairs(cogvid.TextTokenizer):
    """Tokens for what comes often in the captions, the duration in front; down to bytes, so that any text has some.

    Characters that no training caption had cannot be read: the model has never seen their tokens.
    """

    @dataclass
    class Config:
        vocabulary: int = option(512, at_least(256))  # most tokens; 256 of them are bytes

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._bytes = sorted(pre_tokenizers.ByteLevel.alphabet())
        self._tokenizer = Tokenizer(models.BPE())
        self._known = frozenset(_ALWAYS)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """See `TextTokenizer`."""
        return self._tokenizer.get_vocab_size()

    def train(self, captions: Iterable[tuple[str, float]]) -> None:
        """See `TextTokenizer`; takes memory for the distinct words of the captions, however many captions there are."""
        self._tokenizer = Tokenizer(models.BPE())
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        self._tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.config.vocabulary, initial_alphabet=self._bytes, show_progress=False
        )
        known = set(_ALWAYS)

        def texts() -> Iterator[str]:
            for caption, seconds in captions:
                known.update(caption)
                yield with_duration(caption, seconds)

        self._tokenizer.train_from_iterator(texts(), trainer)
        self._known = frozenset(known)

    def encode(self, text: str) -> list[int]:
        """See `TextTokenizer`."""
        return self._tokenizer.encode(text).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextTokenizer`."""
        return self._tokenizer.decode(tokens).strip()

    def ends(self, text: str) -> list[int]:
        """See `TextTokenizer`."""
        return [end for _, end in self._tokenizer.encode(text).offsets]

    def readable(self, caption: str) -> str:
        """See `TextTokenizer`."""
        return "".join(character for character in caption if character in self._known)

    def save(self, folder: Path) -> None:
        """Write one JSON file."""
        content = {"bpe": self._tokenizer.to_str(), "characters": "".join(sorted(self._known))}
        (folder / _FILE).write_text(json.dumps(content))

    def load(self, folder: Path) -> None:
        """See `TextTokenizer`."""
        try:
            saved = json.loads((folder / _FILE).read_bytes())
            self._tokenizer, self._known = Tokenizer.from_str(saved["bpe"]), frozenset(saved["characters"])
        except Exception as error:  # the library raises plain exceptions
            raise cogvid.UserError(f"{folder / _FILE} holds no text tokenizer: {error}.") from error


@cogvid.hookimpl
def register_text_tokenizers() -> dict[str, type]:
    """The tokenizer `bpe`."""
    return {"bpe": BytePairs}
