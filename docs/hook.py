"""For MkDocs: the pages as the site has them, and what of the site lies outside this folder."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from made.show import OUTSIDE, ROOT, for_site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the front page and others of the repository, and the records of benchmarks."""
    records = {f"benchmarks/{path.name}": path for path in sorted((ROOT / "benchmarks").iterdir()) if path.is_file()}
    for name, path in {**{place: ROOT / name for name, place in OUTSIDE.items()}, **records}.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page's text, with what it shows of cogvid."""
    try:
        return for_site(markdown, Path(page.file.abs_src_path or ""))
    except LookupError as error:
        raise PluginError(str(error)) from error
