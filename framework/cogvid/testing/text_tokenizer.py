"""Whether a text tokenizer keeps the promises of its interface."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cogvid.interfaces.text_tokenizer import TextTokenizer
from cogvid.plugins.manager import create_component
from cogvid.testing.report import ConformanceError, Failure

CAPTIONS = (
    "a small red circle moves left",
    "天空中的白色小鸟 and a dog",
    "e\u0301te\u0301, ① ½ of a ﬁne café 🙂🙂",
    "  two  spaces and\na line break ",
    "unbelievably long words",
    "x",
)
DURATIONS = (0.0, 0.5, 4 / 3, 4.0)
# Not in the captions that are learned from.
_NEW = "a wholly new café, größer 🚀"
CHECKS = ("forms", "vocabulary", "ends", "readable", "cut", "saved")


def text_tokenizer_conformance(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    captions: Sequence[str] = CAPTIONS,
) -> None:
    """Hold a text tokenizer to its interface.

    The checks, by name:

    * `forms`: those of a first frame, of a video and of guidance have tokens, the same ones every time.
    * `vocabulary`: all tokens are in it, that of padding and that of the beginning of an image, too.
    * `ends`: there are as many as tokens; they ascend up to the text's length.
    * `readable`: leaves characters out, and no more of them when asked again.
    * `cut`: gives a beginning of the caption with no more tokens than wanted, and all of it where there is room.
    * `saved`: what `load` reads gives the same tokens as what `save` wrote.

    Args:
        name: the registered name.
        options: values for the fields of its `Config`.
        plugins: modules or ./files.py to load beside the installed plugins.
        captions: to train on, and to try it on.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first caption.
        UserError: there is no such tokenizer, or it cannot work here.
    """

    def create() -> TextTokenizer:
        tokenizer: TextTokenizer = create_component("text_tokenizer", name, options, plugins)
        return tokenizer

    tokenizer, loaded = create(), create()
    tokenizer.check()
    tokenizer.train((caption, seconds) for caption in captions for seconds in DURATIONS)
    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        loaded.load(Path(folder))
    failures: dict[str, list[Failure]] = defaultdict(list)
    for caption in (*captions, tokenizer.readable(_NEW)):
        for check, problem in _problems(tokenizer, loaded, caption):
            failures[check].append(Failure(repr(caption), problem))
    if failures:
        raise ConformanceError(type(tokenizer).__name__, {name: failures[name] for name in CHECKS if name in failures})


def _problems(tokenizer: TextTokenizer, loaded: TextTokenizer, caption: str) -> list[tuple[str, str]]:
    found = []
    forms, again, others = (_forms(one, caption) for one in (tokenizer, tokenizer, loaded))
    if not all(forms):
        found.append(("forms", "a form has no token"))
    if forms != again:
        found.append(("forms", "it has other tokens the second time"))
    if forms != others:
        found.append(("saved", "it has other tokens after save and load"))
    special = [tokenizer.padding, *([] if tokenizer.begin_of_image is None else [tokenizer.begin_of_image])]
    outside = [token for ids in (*forms, special) for token in ids if not 0 <= token < tokenizer.vocabulary]
    if outside:
        found.append(("vocabulary", f"the token {outside[0]} is not below {tokenizer.vocabulary}"))
    ends = tokenizer.ends(caption)
    if (
        len(ends) != len(tokenizer.encode(caption))
        or ends != sorted(ends)
        or not all(0 <= e <= len(caption) for e in ends)
    ):
        found.append(("ends", f"the tokens end at {ends}"))
    readable, left = tokenizer.readable(caption), iter(caption)
    if not all(character in left for character in readable) or tokenizer.readable(readable) != readable:
        found.append(("readable", f"of it, {readable!r} can be read"))
    for tokens in range(len(ends) + 2):
        kept = tokenizer.cut(caption, tokens)
        count = len(tokenizer.encode(kept))
        if not caption.startswith(kept) or count > tokens or (tokens >= len(ends) and kept != caption):
            found.append(("cut", f"cut to {tokens} tokens, it is {kept!r}, which has {count}"))
    return found


def _forms(tokenizer: TextTokenizer, caption: str) -> list[list[int]]:
    videos = [tokenizer.video(caption, seconds) for seconds in DURATIONS]
    return [tokenizer.first_frame(caption), *videos, *map(tokenizer.guidance, DURATIONS)]
