"""What a page shows of cogvid: a line that is nothing but a link, with a title that says what of its target to show.

    [swin_ar.py](../../plugins/cogvid_plugins/attention/swin_ar.py "show: source SwinAR.pattern")

On the site what is meant stands there; where the page is read as a file, the link leads to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from . import commands, components, configuration, interfaces
from .source import checks, quoted

ROOT = Path(__file__).resolve().parents[2]
_LINE = re.compile(r'^\[[^\]]+\]\((?P<path>[^ )]+) "show: (?P<what>\w+)(?: (?P<name>[\w.]+))?"\)$', re.MULTILINE)
# Of the site outside of docs/, by where it lies in the repository.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^\s)#]+)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^<!-- file: (\S+) -->\n(```\w+)$", re.MULTILINE)

_MAKERS: dict[str, Callable[[Path, str], str]] = {
    "source": lambda path, name: f'```python title="{path.relative_to(ROOT)}"\n{quoted(path, name)}\n```',
    "checks": checks,
    "hooks": lambda path, name: interfaces.hooks(path),
    "interfaces": lambda path, name: interfaces.interfaces(path),
    "configuration": lambda path, name: configuration.configuration(),
    "components": lambda path, name: components.components(),
    "commands": lambda path, name: commands.commands(),
}


def shown(page: str, path: Path) -> str:
    """A page with all that it shows.

    Args:
        page: its text.
        path: of its file, in the repository.

    Raises:
        LookupError: what it shows is not there.
    """

    def make(line: re.Match[str]) -> str:
        target = (path.parent / line["path"]).resolve()
        if line["what"] not in _MAKERS or not target.exists():
            raise LookupError(f"{path}: {line[0]}: there is nothing of the kind")
        return _MAKERS[line["what"]](target, line["name"] or "")

    return _LINE.sub(make, page)


def for_site(page: str, path: Path) -> str:
    """A page as the site has it: with all that it shows, names of files above their blocks, and links between pages.

    Args:
        page: its text.
        path: of its file, in the repository.
    """

    def there(link: re.Match[str]) -> str:
        target = (path.parent / link[1]).resolve().relative_to(ROOT)
        return os.path.relpath(_place(target), _place(path.relative_to(ROOT)).parent)

    page = _FILE.sub(r'\2 title="\1"', page).replace("<!-- tree -->\n", "")
    parts = _FENCE.split(_LINE.sub(lambda line: line[0].replace("](", "]\0("), page))
    # A block stays as it is; so does what is still to be shown.
    parts = [part if part.startswith("```") else _LINK.sub(there, part) for part in parts]
    return shown("".join(parts).replace("]\0(", "]("), path)


def _place(path: Path) -> Path:
    """Where the site has a file of the repository."""
    name = OUTSIDE.get(str(path), "")
    return Path(name) if name else path.relative_to("docs") if path.parts[0] == "docs" else path
