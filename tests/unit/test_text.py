"""Captions to tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvid import UserError
from cogvid.data.text import TextTokenizer, known_characters, known_part, with_duration

CAPTIONS = ["a small red circle moves left", "a big blue square moves up, then right", "a café at night"]


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.train([with_duration(caption, 2.0) for caption in CAPTIONS], 300)


def test_texts_stand_at_the_right_behind_masked_padding(text: TextTokenizer) -> None:
    tokens, mask = text.encode(CAPTIONS, 40)
    longer, longer_mask = text.encode(CAPTIONS, 50)
    assert tokens.dtype == torch.long
    assert mask.dtype == torch.bool
    assert tokens.shape == mask.shape == (3, 40)
    assert torch.equal(mask, mask.sort(dim=1).values)
    assert mask.any(1).all()
    assert torch.equal(longer[:, 10:][mask], tokens[mask])
    assert torch.equal(longer_mask, torch.cat([torch.zeros(3, 10, dtype=torch.bool), mask], 1))
    assert int(tokens.max()) < text.vocabulary


def test_different_texts_have_different_tokens(text: TextTokenizer) -> None:
    texts = [
        *CAPTIONS,
        "a small red square moves left",
        with_duration(CAPTIONS[0], 1),
        with_duration(CAPTIONS[0], 4),
    ]
    tokens, _ = text.encode(texts, 60)
    assert len(tokens.unique(dim=0)) == len(texts)


def test_a_text_may_fill_all_slots(text: TextTokenizer) -> None:
    length = int(text.encode(CAPTIONS[:1], 60)[1].sum())
    assert text.encode(CAPTIONS[:1], length)[1].all()


def test_a_text_that_is_too_long_is_named(text: TextTokenizer) -> None:
    length = int(text.encode(CAPTIONS[1:2], 60)[1].sum())
    with pytest.raises(UserError, match=r"square.*text\.length"):
        text.encode(CAPTIONS[1:2], length - 1)


def test_an_empty_text_is_refused(text: TextTokenizer) -> None:
    with pytest.raises(UserError, match="0 tokens"):
        text.encode([""], 10)


def test_characters_that_no_caption_had_are_named(text: TextTokenizer) -> None:
    with pytest.raises(UserError, match=r"a red 狗.*'狗'"):
        text.encode(["a red 狗"], 60)


@pytest.mark.parametrize("seconds", [0.25, 1.0, 100.0, 12345.0, 1e-5])
def test_every_duration_can_be_encoded(text: TextTokenizer, seconds: float) -> None:
    assert text.encode([with_duration("", seconds)], 60)[1].any()


def test_the_duration_stands_in_front_of_the_caption() -> None:
    assert with_duration(" a dog ", 2.0) == "2 s: a dog"
    assert with_duration("", 1.3333) == "1.33 s:"


def test_what_was_saved_is_loaded(text: TextTokenizer, tmp_path: Path) -> None:
    text.save(tmp_path / "text.json")
    loaded = TextTokenizer.load(tmp_path / "text.json")
    assert loaded.vocabulary == text.vocabulary
    for one, other in zip(loaded.encode(CAPTIONS, 60), text.encode(CAPTIONS, 60), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UserError, match="狗"):
        loaded.encode(["狗"], 60)


def test_training_gives_the_same_tokenizer_every_time(tmp_path: Path) -> None:
    for name in ("one", "other"):
        TextTokenizer.train(CAPTIONS, 300).save(tmp_path / name)
    assert (tmp_path / "one").read_text() == (tmp_path / "other").read_text()


def test_a_vocabulary_without_room_for_all_bytes_is_refused() -> None:
    with pytest.raises(UserError, match=r"text\.vocabulary.*255"):
        TextTokenizer.train(CAPTIONS, 255)


def test_the_known_part_of_a_caption_has_the_characters_of_training_captions_and_durations() -> None:
    known = known_characters(["a cat runs"])
    assert known_part("a cät runs 3 s", known) == "a ct runs 3 s"
    tokenizer = TextTokenizer.train(["a cat runs"], 300)
    assert tokenizer.encode([known_part("ÿ cat", known)], 12)[1].any()
    with pytest.raises(UserError, match="ÿ"):
        tokenizer.encode(["ÿ cat"], 12)
