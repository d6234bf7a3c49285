"""The README: its spine is the tutorial's, whose test does it; the rest is done here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MONDAY = (ROOT / "docs" / "monday.md").read_text()


@pytest.mark.timeout(280)
def test_every_block_of_the_readme_does_what_it_says(read: Callable[..., list[str]]) -> None:
    ran = read(README, elsewhere=MONDAY)
    spine = [line for line in ran if not line.startswith("make ")]
    assert any(line.startswith("cogvid ablate") for line in spine)
    # In the tutorial's order: a command that is not there has been tried just now, and cannot be one of the spine.
    rest = iter(MONDAY.splitlines())
    assert [line for line in spine if line not in rest] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 120
