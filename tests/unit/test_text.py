"""Captions to the text slots of a sequence."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cogvid
from cogvid import UserError
from cogvid.data.text import CaptionEncoder
from cogvid.interfaces.text_tokenizer import with_duration
from cogvid_plugins.text_tokenizer.bpe import BytePairs

CAPTIONS = ["a small red circle moves left", "a big blue square moves up, then right", "a café at night"]
CODES = 11


class Letters(cogvid.TextTokenizer):
    """A token a letter, the capital ones' twice, and marks of its own around captions."""

    letters = string.ascii_letters + " .:0123456789"
    vocabulary = len(letters) + 3
    first, video_mark, begin_of_image = range(len(letters), len(letters) + 3)
    padding = letters.index("z")

    def encode(self, text: str) -> list[int]:
        return [self.letters.index(letter) for letter in text for _ in range(1 + letter.isupper())]

    def ends(self, text: str) -> list[int]:
        return [end for end, letter in enumerate(text, 1) for _ in range(1 + letter.isupper())]

    def first_frame(self, caption: str) -> list[int]:
        return [self.first, *self.encode(caption)]

    def video(self, caption: str, seconds: float) -> list[int]:
        return [*self.encode(f"{seconds:g}"), self.video_mark, *self.encode(caption), self.video_mark]

    def guidance(self, seconds: float) -> list[int]:
        return self.encode(f"{seconds:g}")

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


@pytest.fixture(scope="module")
def text() -> CaptionEncoder:
    tokenizer = BytePairs(BytePairs.Config(300))
    tokenizer.train((caption, 2.0) for caption in CAPTIONS)
    return CaptionEncoder(tokenizer, 40, CODES)


def seconds(captions: Sequence[object], each: float = 2.0) -> list[float]:
    return [each] * len(captions)


def words(text: CaptionEncoder, caption: str | None, each: float) -> list[int]:
    tokens, mask = text.encode([caption], [each])
    return tokens[mask].tolist()


def test_captions_stand_at_the_right_behind_masked_padding(text: CaptionEncoder) -> None:
    tokens, mask = text.encode(CAPTIONS, seconds(CAPTIONS))
    longer, longer_mask = replace(text, length=50).encode(CAPTIONS, seconds(CAPTIONS))
    assert tokens.dtype == torch.long
    assert mask.dtype == torch.bool
    assert tokens.shape == mask.shape == (3, 40)
    assert torch.equal(mask, mask.sort(dim=1).values)
    assert mask.any(1).all()
    assert torch.equal(longer[:, 10:][mask], tokens[mask])
    assert torch.equal(longer_mask, torch.cat([torch.zeros(3, 10, dtype=torch.bool), mask], 1))
    assert int(tokens.max()) < text.vocabulary == CODES + 1 + text.tokenizer.vocabulary
    assert (tokens > text.begin_of_image).all()
    assert text.begin_of_image == CODES


def test_different_captions_and_durations_have_different_tokens(text: CaptionEncoder) -> None:
    captions = [*CAPTIONS, "a small red square moves left", CAPTIONS[0], CAPTIONS[0], None]
    tokens, _ = replace(text, length=60).encode(captions, [2, 2, 2, 2, 1, 0, 2])
    assert len(tokens.unique(dim=0)) == len(captions)


def test_the_duration_stands_in_front_of_the_caption(text: CaptionEncoder) -> None:
    assert with_duration(" a dog ", 2.0) == "2 s: a dog"
    assert with_duration("", 1.3333) == "1.33 s:"
    for caption, each, whole in ((CAPTIONS[0], 4.0, f"4 s: {CAPTIONS[0]}"), (CAPTIONS[0], 0.0, f"0 s: {CAPTIONS[0]}")):
        assert words(text, caption, each) == [CODES + 1 + token for token in text.tokenizer.encode(whole)]
    assert words(text, None, 4.0) == [CODES + 1 + token for token in text.tokenizer.encode("4 s:")]


def test_each_form_and_the_special_tokens_are_the_tokenizers_own() -> None:
    letters = Letters()
    text = CaptionEncoder(letters, 8, CODES)
    assert text.begin_of_image == CODES + letters.begin_of_image
    assert text.vocabulary == CODES + letters.vocabulary
    two, video = CODES + letters.letters.index("2"), CODES + letters.video_mark
    assert words(text, "ab", 2.0) == [two, video, CODES, CODES + 1, video]
    assert words(text, "ab", 0.0) == [CODES + letters.first, CODES, CODES + 1]
    assert words(text, None, 2.0) == [two]
    tokens, mask = text.encode(["ab"], [0.0])
    assert tokens[~mask].unique().tolist() == [CODES + letters.padding]


def test_a_caption_may_fill_all_slots(text: CaptionEncoder) -> None:
    length = len(words(text, CAPTIONS[0], 2.0))
    exact = replace(text, length=length)
    assert exact.encode(CAPTIONS[:1], [2.0])[1].all()
    assert exact.fits(CAPTIONS[0], 2.0)
    assert not replace(text, length=length - 1).fits(CAPTIONS[0], 2.0)


@pytest.mark.parametrize("each", [0.0, 0.5])
def test_a_caption_that_is_too_long_is_cut_at_a_token_and_keeps_its_form(text: CaptionEncoder, each: float) -> None:
    for caption in CAPTIONS:
        for length in range(8, len(words(text, caption, each))):
            short = replace(text, length=length)
            kept = short.kept(caption, [each])
            ends = text.tokenizer.ends(caption)
            assert caption.startswith(kept)
            assert len(kept) in {0, *ends}
            assert words(short, caption, each) == words(text, kept, each)
            assert not short.fits(caption[: min(end for end in ends if end > len(kept))], each)


def test_of_a_cut_caption_the_mark_behind_it_stays() -> None:
    text = CaptionEncoder(Letters(), 8, CODES)
    assert words(text, "abcdefgh", 2.0)[-1] == CODES + Letters.video_mark
    assert text.kept("abcdefgh", [2.0]) == "abcde"
    assert text.kept("abcdefgh", [0.0]) == "abcdefg"
    assert text.kept("abcdefgh", [0.0, 2.0, 100.0]) == "abc"
    assert text.kept("abcdEF", [2.0]) == "abcd"


def test_a_caption_that_may_not_be_cut_is_named(text: CaptionEncoder) -> None:
    with pytest.raises(UserError, match=r"square.*room for 9.*text\.length"):
        replace(text, length=9, cut=False).encode(CAPTIONS[1:2], [2.0])


@pytest.mark.parametrize("caption", [None, "a café"])
def test_slots_that_a_duration_alone_does_not_fit_into_are_refused(text: CaptionEncoder, caption: str | None) -> None:
    for cut in (True, False):
        with pytest.raises(UserError, match=r"text\.length|room for 2"):
            replace(text, length=2, cut=cut).encode([caption], [12345.0])


def test_a_form_without_tokens_is_refused() -> None:
    class Silent(Letters):
        def guidance(self, seconds: float) -> list[int]:
            return []

    with pytest.raises(UserError, match="0 tokens"):
        CaptionEncoder(Silent(), 8, CODES).encode([None], [1.0])


def test_characters_that_the_tokenizer_cannot_read_are_named(text: CaptionEncoder) -> None:
    for read in (lambda: text.encode(["a red 狗"], [2.0]), lambda: text.kept("a red 狗", [2.0])):
        with pytest.raises(UserError, match=r"a red 狗.*'狗'"):
            read()


@pytest.mark.parametrize("each", [0.25, 1.0, 100.0, 12345.0, 1e-5])
def test_every_duration_can_be_encoded(text: CaptionEncoder, each: float) -> None:
    assert text.encode([None], [each])[1].any()


@given(st.text("abAB ", max_size=12), st.integers(0, 14))
def test_the_longest_beginning_that_ends_with_a_token_is_kept(caption: str, tokens: int) -> None:
    letters = Letters()
    kept = letters.cut(caption, tokens)
    fitting = [end for end in range(len(caption) + 1) if len(letters.encode(caption[:end])) <= tokens]
    assert kept == caption[: max(fitting)]


def test_a_plugin_needs_no_more_than_tokens_where_they_end_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "bytes.py").write_text("""
import cogvid
class Bytes(cogvid.TextTokenizer):
    vocabulary = 256
    def encode(self, text):
        return list(text.encode())
    def ends(self, text):
        return [end for end, letter in enumerate(text, 1) for _ in letter.encode()]
    def save(self, folder):
        pass
    def load(self, folder):
        pass
@cogvid.hookimpl
def register_text_tokenizers():
    return {"bytes": Bytes}
""")
    tokenizer: cogvid.TextTokenizer = cogvid.create_component(
        "text_tokenizer", "bytes", plugins=[str(tmp_path / "bytes.py")]
    )
    nothing: Iterable[tuple[str, float]] = []
    tokenizer.train(nothing)
    assert tokenizer.guidance(2.0) == list(b"2 s:")
    assert tokenizer.first_frame("é") == list("0 s: é".encode())
    assert [tokenizer.cut("aéb", tokens) for tokens in range(5)] == ["", "a", "a", "aé", "aéb"]
    assert tokenizer.readable("狗") == "狗"
