"""Which source files a piece of work can reach through its imports, and the SHA-256 of each.

Read from the text of the files, so nothing is imported for it. Installed packages are left out: their version tells
one state of them from another. A file that is read beside a module counts where the module names it.
"""

from __future__ import annotations

import ast
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

CORE = Path(__file__).resolve().parents[1]
# These decide a result through the values of the configuration alone, which a key holds, or only show something.
_ASIDE = ("config", "errors.py", "progress.py")
_SCHEMES = ("stdlib", "platstdlib", "purelib", "platlib")
_LIBRARIES = {Path(sysconfig.get_path(scheme)).resolve() for scheme in _SCHEMES} | {Path(site.getusersitepackages())}
# A file or folder name, or several with slashes between; * stands for what an f-string puts in.
_NAME = re.compile(r"[\w.*-]+(/[\w.*-]+)*")


def source_files(roots: Sequence[Path]) -> dict[str, str]:
    """The files that `roots` can reach: SHA-256 in hexadecimal by name, such as cogvid/data/video.py.

    Args:
        roots: files of modules.
    """
    files: dict[str, str] = {}
    starts = [_above(root.resolve()) for root in roots]
    for path in reached(roots):
        # A file beside a module that is in no package has its name from there.
        above = next((start for start in starts if path.is_relative_to(start)), _above(path))
        name = str(path.relative_to(_above(path) if _packages(path) else above))
        files[str(path) if name in files else name] = _content(path).digest
    return files


def reached(roots: Iterable[Path]) -> list[Path]:
    """The files of modules, and all that they can reach, sorted."""
    waiting = [path.resolve() for path in roots]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found or any(path.is_relative_to(CORE / name) for name in _ASIDE):
            continue
        found.add(path)
        content = _content(path)
        waiting += [file for name, names in content.imports for file in _files_of(path, name, names)]
        waiting += _named_files(path, content.names) if content.names else ()
    return sorted(found)


def edited(path: Path) -> bool:
    """Whether a file has changed since this process first read it here."""
    known = _contents.get(path)
    return known is not None and known.digest != sha256(path.read_bytes()).hexdigest()


def forget(path: Path) -> None:
    """Read a file anew the next time: its code is loaded anew, too."""
    _contents.pop(path, None)


@dataclass(frozen=True)
class _Content:
    """What a file holds: its SHA-256, its imports as (module, names taken from it), strings that may name files.

    A relative module begins with dots.
    """

    digest: str
    imports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    names: tuple[str, ...] = ()


# By file, as it was when this process first asked: code that is loaded stays what it was, too.
_contents: dict[Path, _Content] = {}


def _content(path: Path) -> _Content:
    if path not in _contents:
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        _contents[path] = _parsed(content, digest) if path.suffix == ".py" else _Content(digest)
    return _contents[path]


def _parsed(code: bytes, digest: str) -> _Content:
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError):  # no code that could run
        return _Content(digest)
    attributes = [
        (node.value.id, node.attr)
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    imports: list[tuple[str, tuple[str, ...]]] = []
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name
                imports.append((alias.name, tuple({attribute for name, attribute in attributes if name == bound})))
        elif isinstance(node, ast.ImportFrom):
            imports.append(("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            names.add("".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values))
    return _Content(digest, tuple(imports), tuple(sorted(name for name in names if _NAME.fullmatch(name))))


def _files_of(importer: Path, module: str, names: tuple[str, ...]) -> Iterator[Path]:
    """The files behind an import, those of the packages around them first."""
    if module == CORE.name:
        # The package itself holds nothing but names from elsewhere: those that are used count.
        exported = _exports()
        for name in names:
            yield from _files_of(importer, exported.get(name, f"{module}.{name}"), (name,) if name in exported else ())
        return
    if module.startswith("."):
        levels = len(module) - len(module.lstrip("."))
        if importer.name != "__init__.py" and not (importer.parent / "__init__.py").exists():
            return
        place: Path | None = importer.parents[levels - 1]
        parts = [part for part in module.lstrip(".").split(".") if part]
    else:
        top, *parts = module.split(".")
        place = _home(top, importer)
    if place is None:
        return
    if place != CORE:
        yield from _module_file(place)
    for part in parts:
        place = place / part
        yield from _module_file(place)
    for name in names:
        yield from _module_file(place / name)


def _module_file(place: Path) -> list[Path]:
    """The file of the module at a path without its ending."""
    return [file for file in (place.with_name(place.name + ".py"), place / "__init__.py") if file.is_file()][:1]


@cache
def _exports() -> dict[str, str]:
    imports = _content(CORE / "__init__.py").imports
    return {name: module for module, names in imports for name in names}


def _home(top: str, importer: Path) -> Path | None:
    """Where a top-level module stands, without its ending; None for one of an installed package."""
    if top == CORE.name:
        return CORE
    above = _above(importer)
    beside = above / top
    if _module_file(beside) and (above not in _LIBRARIES or importer.is_relative_to(beside)):
        return beside
    return _on_path(top, tuple(sys.path))


@cache
def _on_path(top: str, path: tuple[str, ...]) -> Path | None:
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        return None
    places = list(spec.submodule_search_locations or ()) or [str(spec.origin).removesuffix(".py")]
    place = Path(places[0]).resolve()
    installed = any(place.is_relative_to(library) for library in _LIBRARIES) or "site-packages" in place.parts
    return None if installed else place


def _above(path: Path) -> Path:
    """The folder that a file's outermost package stands in; that of the file itself outside of packages."""
    return (_packages(path) or [path])[-1].parent


@cache
def _packages(path: Path) -> list[Path]:
    """The packages around a file, the outermost last, whatever folders without `__init__.py` are between."""
    return [folder for folder in path.parents if (folder / "__init__.py").exists()]


def _named_files(module: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """The files beside a module, or in folders beside it, whose names it says."""
    own = [module.stem + name if name.startswith(".") else name for name in names]
    said = {part for name in own for part in name.split("/")}
    patterns = [part for part in said if "*" in part and re.fullmatch(r".*\.\w+", part)]
    waiting = [module.parent]
    while waiting:
        for path in _entries(waiting.pop()):
            if path.name in said and path.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif path.name in said or any(fnmatchcase(path.name, pattern) for pattern in patterns):
                yield from [path] if path.is_file() else ()


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
