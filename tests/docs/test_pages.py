"""The pages: what they say to do is done, what they show of cogvid is there, and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from cogvid.interfaces.component import KINDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = [DOCS / "plugins" / f"{kind.replace('_', '-')}.md" for kind in KINDS]
LINK = re.compile(r"\]\((?![a-z]+:)([^\s)#]*)(?:#([^\s)]+))?")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.slow
def test_the_page_about_ablations(read: Callable[..., list[str]], tmp_path: Path) -> None:
    ran = read((DOCS / "ablations.md").read_text())
    words = ["config", "config", "list", "config", "ablate", "compare", "evaluate", "evaluate"]
    assert [line.split()[1] for line in ran] == words
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "theirs.json").exists()


def test_what_a_page_says_is_printed_is_held_to_what_is(read: Callable[..., list[str]]) -> None:
    page = "```sh\necho '| one   two |'\n```\n\n```text\n{}\n```\n"
    assert read(page.format("one two")) == ["echo '| one   two |'"]
    with pytest.raises(AssertionError, match="prints no such line: two one"):
        read(page.format("two one"))


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("page", ["quickstart", "attention", "decoding", "training", "reproduces", "plugins/index"])
def test_a_page_can_be_followed(page: str, read: Callable[..., list[str]]) -> None:
    assert read((DOCS / f"{page}.md").read_text())


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_the_guide_to_a_kind_of_plugin_can_be_followed(guide: Path, read: Callable[..., list[str]]) -> None:
    ran = read(guide.read_text())
    assert ran[-1].startswith("python -m pytest")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_shows_a_built_in_plugin_and_what_its_suite_checks(guide: Path) -> None:
    text = guide.read_text()
    assert re.search(r'\(\.\./\.\./plugins/cogvid_plugins/\S+ "show: source', text)
    assert re.search(r'\(\.\./\.\./framework/cogvid/testing/\S+ "show: checks \w+_conformance"', text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(BLOCK.sub("", page.read_text())):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{name(page)} links to {target}, which is not there"
        assert not anchor or anchor in headings(there), f"{name(page)}: {target} has no heading #{anchor}"


def headings(page: Path) -> Iterator[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    for line in BLOCK.sub("", page.read_text()).splitlines():
        if line.startswith("#"):
            yield re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("material") is None, reason="the extra `docs` is not installed")
def test_the_site_is_built_and_every_page_has_its_place(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    made = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.html")}
    assert made - pages == {Path("index.html"), Path("contributing.html"), Path("changelog.html"), Path("404.html")}
    assert pages <= made
