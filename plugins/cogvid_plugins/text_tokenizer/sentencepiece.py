"""Text tokenizer `sentencepiece`: a released SentencePiece file, in the forms of the 2022 release of CogVideo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import cogvid
from cogvid.config.ranges import file_name, option

_FILE = "text.model"
# Behind the file's pieces: <start_of_image>, <start_of_english>, <start_of_chinese>.
_APPENDED = 3
_BREAK, _PADDING = "<n>", "<pad>"


class SentencePiece(cogvid.TextTokenizer):
    """The pieces of a file such as `ice_text.model`, and behind them the special tokens that the release appends.

    A first frame is asked for by its caption and " 高清摄影" (high-definition photography), a video by its duration in
    seconds (秒), a line break, its caption and " 视频" (video).
    """

    @dataclass
    class Config:
        model: str = option(MISSING, file_name())  # the file; relative to the current directory

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._file = Path(config.model)
        if find_spec("sentencepiece") is None:
            raise cogvid.UserError(
                'sentencepiece: the package sentencepiece is not installed; pip install "cogvid[sentencepiece]" does it'
            )

    @cached_property
    def _pieces(self) -> Any:
        try:
            content = self._file.read_bytes()
        except OSError as error:
            raise cogvid.UserError(f"sentencepiece: model {self._file} cannot be read: {error.strerror}.") from error
        # Not at the top: an experiment without it runs where it is not installed.
        from sentencepiece import SentencePieceProcessor

        pieces = SentencePieceProcessor()
        try:
            pieces.load_from_serialized_proto(content)
        except Exception as error:  # the library raises what it likes
            raise cogvid.UserError(f"sentencepiece: {self._file} is no SentencePiece model.") from error
        for name in (_BREAK, _PADDING):
            if pieces.id_to_piece(pieces.piece_to_id(name)) != name:
                raise cogvid.UserError(
                    f"sentencepiece: {self._file} has no piece {name}, which the released model's texts are made with."
                )
        return pieces

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """See `TextTokenizer`."""
        return len(self._pieces) + _APPENDED

    @property
    def begin_of_image(self) -> int:  # type: ignore[override]
        """See `TextTokenizer`: <start_of_image>."""
        return len(self._pieces)

    @property
    def padding(self) -> int:  # type: ignore[override]
        """See `TextTokenizer`: <pad>."""
        return self._pieces.piece_to_id(_PADDING)

    def check(self) -> None:
        """See `TextTokenizer`."""
        _ = self._pieces

    def encode(self, text: str) -> list[int]:
        """See `TextTokenizer`."""
        return self._pieces.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextTokenizer`; <n> by its name, without the tokens that are appended, which stand for no text."""
        break_, texts = self._pieces.piece_to_id(_BREAK), list[list[int]]([[]])
        for token in tokens:
            if token == break_:
                texts.append([])
            elif token < len(self._pieces):
                texts[-1].append(token)
        return _BREAK.join(self._pieces.decode(text) for text in texts)

    def ends(self, text: str) -> list[int]:
        """See `TextTokenizer`."""
        return [end for _, end in self._pieces.encode(text, return_type="offset_mapping")["offsets"]]

    def first_frame(self, caption: str) -> list[int]:
        """See `TextTokenizer`."""
        return self.encode(f"{caption} 高清摄影")

    def video(self, caption: str, seconds: float) -> list[int]:
        """See `TextTokenizer`."""
        return self._behind_duration(seconds, f"{caption} 视频")

    def guidance(self, seconds: float) -> list[int]:
        """See `TextTokenizer`."""
        return self._behind_duration(seconds, "视频")

    def _behind_duration(self, seconds: float, text: str) -> list[int]:
        # As text, a break would get a space of its own before it and take the one of the text behind it.
        duration = float(f"{seconds:.3g}")
        return [*self.encode(f"{duration}秒"), self._pieces.piece_to_id(_BREAK), *self.encode(text)]

    def readable(self, caption: str) -> str:
        """See `TextTokenizer`: all of it, where the file has pieces for bytes."""
        pieces = self._pieces
        if pieces.is_byte(pieces.piece_to_id("<0x00>")):
            return caption
        return "".join(character for character in caption if pieces.unk_id() not in pieces.encode(character))

    def save(self, folder: Path) -> None:
        """Copy the file."""
        (folder / _FILE).write_bytes(self._pieces.serialized_model_proto())

    def load(self, folder: Path) -> None:
        """See `TextTokenizer`."""
        self._file = folder / _FILE
        self.__dict__.pop("_pieces", None)
        self.check()


@cogvid.hookimpl
def register_text_tokenizers() -> dict[str, type]:
    """The tokenizer `sentencepiece`."""
    return {"sentencepiece": SentencePiece}
