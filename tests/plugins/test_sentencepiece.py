"""The text tokenizer `sentencepiece`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cogvid
from cogvid import UserError, create_component
from cogvid.data.text import CaptionEncoder
from cogvid.testing import text_tokenizer_conformance
from cogvid_plugins.text_tokenizer.sentencepiece import SentencePiece

sentencepiece = pytest.importorskip("sentencepiece")

SENTENCES = [
    *(
        f"a {size} {colour} {shape} moves {way}"
        for size in ("small", "large")
        for colour in ("red", "green", "blue")
        for shape in ("circle", "square", "triangle")
        for way in ("left", "right", "up")
    ),
    "视频",
    "高清摄影",
    "4.0秒",
]
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Trains a file of the kind of the released one."""

    def make(**changes: Any) -> Path:
        path, content = tmp_path_factory.mktemp("sentencepiece") / "tiny.model", io.BytesIO()
        sentencepiece.set_random_generator_seed(0)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES),
            model_writer=content,
            minloglevel=2,
            num_threads=1,
            **{
                "vocab_size": 330,
                "byte_fallback": True,
                "pad_id": 3,
                "user_defined_symbols": ["<n>"],
                "hard_vocab_limit": False,
                **changes,
            },
        )
        path.write_bytes(content.getvalue())
        return path

    return make


@pytest.fixture(scope="session")
def tiny(make: Make) -> Path:
    return make()


def of(path: Path) -> SentencePiece:
    return SentencePiece(SentencePiece.Config(str(path)))


def test_it_conforms(tiny: Path) -> None:
    text_tokenizer_conformance("sentencepiece", {"model": str(tiny)})


def test_the_released_ids_are_reproduced(reference: Path) -> None:
    expected = json.loads((reference / "text_tokenizer.json").read_text())
    tokenizer, first = of(reference / "text_tokenizer.model"), expected["image_tokens"]
    text = CaptionEncoder(tokenizer, 64, first)
    assert text.begin_of_image == expected["start_of_image"]
    assert tokenizer.padding + first == expected["pad"]
    assert text.vocabulary == first + expected["vocabulary_of_the_file"] + 3
    assert len(expected["rows"]) == 24
    for row in expected["rows"]:
        caption, seconds = row["text"], row["seconds"]
        assert [first + token for token in tokenizer.encode(caption)] == row["plain"]
        tokens, mask = text.encode([caption, caption, None], [0.0, seconds, seconds])
        forms = [one[own].tolist() for one, own in zip(tokens, mask, strict=True)]
        assert forms == [row["first_frame"], row["video"], row["guidance"]]
        assert tokens[~mask].unique().tolist() == [expected["pad"]]


def test_the_forms_are_those_of_the_release(tiny: Path) -> None:
    tokenizer = of(tiny)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tiny))
    caption = "a small red circle"
    (line_break,) = {pieces.piece_to_id("<n>")}
    duration = pieces.encode("4.0秒")
    assert tokenizer.encode(caption) == pieces.encode(caption)
    assert tokenizer.first_frame(caption) == pieces.encode(f"{caption} 高清摄影")
    assert tokenizer.video(caption, 4) == [*duration, line_break, *pieces.encode(f"{caption} 视频")]
    assert tokenizer.guidance(4.0) == [*duration, line_break, *pieces.encode("视频")]
    # No longer for a duration that no decimal number is.
    assert tokenizer.guidance(4 / 3) == [*pieces.encode("1.33秒"), line_break, *pieces.encode("视频")]


def test_special_tokens_stand_behind_the_pieces(tiny: Path) -> None:
    tokenizer, pieces = of(tiny), len(sentencepiece.SentencePieceProcessor(model_file=str(tiny)))
    assert (tokenizer.begin_of_image, tokenizer.vocabulary, tokenizer.padding) == (pieces, pieces + 3, 3)


def test_what_is_saved_is_the_file_and_serves_without_it(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    moved = tmp_path / "moved.model"
    moved.write_bytes(tiny.read_bytes())
    of(moved).save(folder)
    moved.unlink()
    assert (folder / "text.model").read_bytes() == tiny.read_bytes()
    loaded = of(moved)
    loaded.load(folder)
    assert loaded.video("a red circle", 2.0) == of(tiny).video("a red circle", 2.0)


def test_a_file_with_pieces_for_bytes_can_read_everything(tiny: Path) -> None:
    assert of(tiny).readable("größer 🚀") == "größer 🚀"


def test_without_them_characters_that_no_piece_has_cannot_be_read(make: Make) -> None:
    tokenizer = of(make(byte_fallback=False, vocab_size=60))
    assert tokenizer.readable("a größer circle 🚀") == "a grer circle "
    assert tokenizer.readable("a red circle") == "a red circle"
    text_tokenizer_conformance(
        "sentencepiece", {"model": str(tokenizer.config.model)}, captions=["a red circle", "视频"]
    )


def test_it_is_cut_where_a_piece_of_the_caption_ends(tiny: Path) -> None:
    tokenizer = of(tiny)
    caption = "a small  red ﬁne ½ circle 🚀"
    lengths = [len(tokenizer.cut(caption, tokens)) for tokens in range(60)]
    assert lengths == sorted(lengths)
    assert {"a", "a small", caption} < {caption[:length] for length in lengths}
    assert lengths[-1] == len(caption)


def test_what_is_no_model_of_the_kind_is_named(tiny: Path, make: Make, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "cut").write_bytes(tiny.read_bytes()[:1000])
    for path, words in (
        (tmp_path / "gone", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "text", "is no SentencePiece model"),
        (tmp_path / "empty", "is no SentencePiece model"),
        (tmp_path / "cut", "is no SentencePiece model|has no piece"),
        (make(user_defined_symbols=[]), "has no piece <n>"),
        (make(pad_id=-1), "has no piece <pad>"),
    ):
        with pytest.raises(UserError, match=rf"{path}.* ?{words}|{path} {words}"):
            of(path).check()


def test_without_the_package_it_says_how_to_get_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r'pip install "cogvid\[sentencepiece\]"'):
        create_component("text_tokenizer", "sentencepiece", {"model": str(tiny)})


def test_it_is_registered_and_needs_a_file() -> None:
    with pytest.raises(cogvid.UserError, match=r"options\.model: .* needs a value"):
        create_component("text_tokenizer", "sentencepiece")
