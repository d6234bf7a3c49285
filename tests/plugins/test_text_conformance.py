"""The text tokenizers' suite catches those that break a promise, by the name of the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvid.plugins.manager import create_plugin_manager
from cogvid.testing import ConformanceError, text_tokenizer_conformance

BYTES = """
import cogvid
class Bytes(cogvid.TextTokenizer):
    vocabulary = 256
    count = 0
    def encode(self, text):
        return list(text.encode())
    def ends(self, text):
        return [end for end, letter in enumerate(text, 1) for _ in letter.encode()]
    def save(self, folder):
        pass
    def load(self, folder):
        pass
    {broken}
@cogvid.hookimpl
def register_text_tokenizers():
    return {{"bytes": Bytes}}
"""


def check(folder: Path, broken: str) -> None:
    (folder / "bytes.py").write_text(BYTES.format(broken=broken))
    text_tokenizer_conformance("bytes", plugins=[str(folder / "bytes.py")])


def test_one_that_keeps_all_promises_passes(tmp_path: Path) -> None:
    check(tmp_path, "")


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        ("guidance = lambda self, seconds: []", "forms"),
        ("first_frame = lambda self, caption: [setattr(self, 'count', self.count + 1), self.count % 7][1:]", "forms"),
        ("first_frame = lambda self, caption: [256]", "vocabulary"),
        ("padding = -1", "vocabulary"),
        ("begin_of_image = 256", "vocabulary"),
        ("ends = lambda self, text: [*range(1, len(text) + 1)] + [0] * (len(text.encode()) - len(text))", "ends"),
        ("readable = lambda self, caption: caption.upper()", "readable"),
        ("readable = lambda self, caption: caption[1:]", "readable"),
        ("cut = lambda self, caption, tokens: caption[:tokens]", "cut"),
        ("cut = lambda self, caption, tokens: caption[-tokens:]", "cut"),
        ("cut = lambda self, caption, tokens: ''", "cut"),
        ("load = lambda self, folder: setattr(self, 'encode', lambda text: list(text.encode()[::-1]))", "saved"),
    ],
)
def test_a_broken_promise_is_named(tmp_path: Path, broken: str, caught: str) -> None:
    with pytest.raises(ConformanceError, match="Bytes does not conform") as error:
        check(tmp_path, broken)
    assert caught in error.value.failures


def test_every_built_in_text_tokenizer_is_held_to_the_suite() -> None:
    built_in = {
        info.name
        for info in create_plugin_manager().components()
        if info.kind == "text_tokenizer" and "cogvid" in info.origin
    }
    for name in built_in:
        (calls,) = Path(__file__).parent.glob(f"test_{name}.py")
        assert "text_tokenizer_conformance(" in calls.read_text()
    assert built_in == {"bpe", "sentencepiece"}
