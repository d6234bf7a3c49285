"""Captions to tokens: a byte-level BPE trained on the captions of an experiment, the frame rate in front."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from cogvid.errors import UserError


def with_duration(caption: str, seconds: float) -> str:
    """The text a sequence is conditioned on: its length in seconds, then the caption (CogVideo, section 3.1)."""
    return f"{seconds:.3g} s: {caption.strip()}".strip()


def known_characters(captions: Iterable[str]) -> frozenset[str]:
    """The characters that a model trained on these captions, with durations in front, has seen."""
    return frozenset("".join(captions)) | frozenset("0123456789. s:e-+")


def known_part(caption: str, known: Collection[str]) -> str:
    """A caption without its unknown characters: what a model can make of one that it was not trained on."""
    return "".join(character for character in caption if character in known)


class TextTokenizer:
    """Byte-level BPE. Any text can be encoded; characters that no training caption had are refused, since the
    model has never seen their tokens."""

    def __init__(self, tokenizer: Tokenizer, known: Iterable[str]) -> None:
        """Args: the BPE; known: the characters of the training captions."""
        self._tokenizer, self._known = tokenizer, frozenset(known)

    @classmethod
    def train(cls, texts: Sequence[str], vocabulary: int) -> TextTokenizer:
        """Learn tokens from texts, the same ones every time.

        Args:
            texts: to learn from.
            vocabulary: most tokens; 256 of them are bytes.
        """
        if vocabulary < 256:
            raise UserError(f"text.vocabulary: a byte-level vocabulary has at least 256 tokens, got {vocabulary}")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer, known_characters(texts))

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Texts to left-padded tokens.

        Args:
            texts: B texts, none empty.
            length: T, slots of a sequence.

        Returns:
            tokens int64 (B, T) and mask bool (B, T), False for padding.

        Raises:
            UserError: a text is empty, too long, or has characters that no training caption had.
        """
        tokens = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros(len(texts), length, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids = self._tokenizer.encode(text).ids
            unknown = sorted(set(text) - self._known)
            if unknown:
                raise UserError(
                    f"{text!r} has characters that no training caption had: {' '.join(map(repr, unknown))}. "
                    "The model cannot know what they mean; write the prompt without them."
                )
            if not 0 < len(ids) <= length:
                raise UserError(
                    f"{text!r} has {len(ids)} tokens; a sequence has room for 1 to {length}. "
                    "Shorten the caption, or raise text.length and train again."
                )
            tokens[row, length - len(ids) :] = torch.tensor(ids)
            mask[row, length - len(ids) :] = True
        return tokens, mask

    def save(self, path: Path) -> None:
        """Write everything to one JSON file."""
        import json

        path.write_text(json.dumps({"bpe": self._tokenizer.to_str(), "characters": "".join(sorted(self._known))}))

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read what `save` wrote."""
        import json

        saved = json.loads(path.read_text())
        return cls(Tokenizer.from_str(saved["bpe"]), saved["characters"])
