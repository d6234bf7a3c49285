"""The text tokenizer `bpe`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvid import UserError, create_component
from cogvid.interfaces.text_tokenizer import with_duration
from cogvid.testing import text_tokenizer_conformance
from cogvid_plugins.text_tokenizer.bpe import BytePairs

CAPTIONS = ["a small red circle moves left", "a big blue square moves up, then right", "a café at night 🌙"]


def trained(vocabulary: int = 300) -> BytePairs:
    tokenizer = BytePairs(BytePairs.Config(vocabulary))
    tokenizer.train((caption, 2.0) for caption in CAPTIONS)
    return tokenizer


@pytest.mark.parametrize("vocabulary", [256, 300, 1000])
def test_it_conforms(vocabulary: int) -> None:
    text_tokenizer_conformance("bpe", {"vocabulary": vocabulary})


def test_what_comes_often_gets_a_token_of_its_own() -> None:
    tokenizer = trained()
    assert 256 < tokenizer.vocabulary <= 300
    assert len(tokenizer.encode(" moves")) == 1
    assert len(tokenizer.encode("zebra")) == len("zebra") + 1


def test_tokens_are_learned_from_captions_behind_their_durations() -> None:
    tokenizer = BytePairs(BytePairs.Config(260))
    tokenizer.train(("a", float(seconds)) for seconds in range(10, 100))
    assert len(tokenizer.encode(with_duration("a", 42.0))) < len(tokenizer.encode("42 x: a"))


def test_captions_are_read_once_as_they_come() -> None:
    live = 0

    class Caption(str):
        def __init__(self, _: str) -> None:
            nonlocal live
            live += 1

        def __del__(self) -> None:
            nonlocal live
            live -= 1

    most = 0

    def captions() -> Iterator[tuple[str, float]]:
        nonlocal most
        for number in range(20_000):
            most = max(most, live)
            yield Caption(f"a cat {number % 7}"), 1.0

    BytePairs().train(captions())
    assert 0 < most < 10


def test_training_gives_the_same_tokenizer_every_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        trained().save(tmp_path / name)
    one, other = (tmp_path / name / "text.json" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_characters_that_no_training_caption_had_cannot_be_read(tmp_path: Path) -> None:
    tokenizer = BytePairs()
    tokenizer.train([("a cat runs", 1.0)])
    assert tokenizer.readable("a cät runs 3 s") == "a ct runs 3 s"
    tokenizer.save(tmp_path)
    loaded = BytePairs()
    loaded.load(tmp_path)
    assert loaded.readable("ÿ cat") == " cat"
    assert loaded.vocabulary == tokenizer.vocabulary


@settings(max_examples=60)
@given(st.text("ab é🌙,'\n", max_size=20), st.integers(0, 25))
def test_a_cut_caption_is_a_beginning_with_the_same_tokens(caption: str, tokens: int) -> None:
    tokenizer = TRAINED
    kept = tokenizer.cut(caption, tokens)
    ids = tokenizer.encode(caption)
    assert caption.startswith(kept)
    assert len(tokenizer.encode(kept)) <= tokens
    assert kept == caption or len(tokenizer.encode(kept)) >= min(tokens, len(ids)) - 4  # bytes of one character


TRAINED = trained()


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"vocabulary.*at least 256.*255"):
        create_component("text_tokenizer", "bpe", {"vocabulary": 255})


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b'{"bpe": "{", "characters": ""}', b"\xff\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "text.json").write_bytes(content)
    with pytest.raises(UserError, match=r"text\.json holds no text tokenizer"):
        BytePairs().load(tmp_path)
