"""The reference of hooks and interfaces: every public name with its exact signature and what it says of itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from cogvid.interfaces.component import KINDS
from cogvid.plugins.manager import HOOKS

from .source import docstring, public, signature

# What the interfaces are written in, behind those of the kinds.
WORDS = ("component", "grid", "mask", "share", "token_source")
_FILES = {"data": "data_source"}


def hooks(path: Path) -> str:
    """The hooks of `hookspecs.py`, in its order."""
    lines = []
    for node in public(ast.parse(path.read_text(encoding="utf-8")).body):
        assert isinstance(node, ast.FunctionDef)
        kind, _ = HOOKS[node.name]
        lines += [f"## `{node.name}`", "", *_code(signature(node)), "", docstring(node), ""]
        lines += [f"Its components are of the kind `{kind}`.", ""]
    return "\n".join(lines)


def interfaces(folder: Path) -> str:
    """What the modules of a folder have for authors of plugins: first those of the kinds, then their words."""
    modules = [*(_FILES.get(kind, kind) for kind in KINDS), *WORDS]
    return "\n".join(line for module in modules for line in _module(folder / f"{module}.py"))


def _module(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (f"## `cogvid.interfaces.{path.stem}`", "", docstring(tree), "")
    for node in public(tree.body):
        yield from (f"### `{node.name}`", "")
        if isinstance(node, ast.ClassDef):
            yield from _class(node)
        else:
            yield from (*_code(signature(node)), "", docstring(node), "")


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = ", ".join(map(ast.unparse, node.bases))
    fields = [line for line in map(ast.unparse, node.body) if line and _is_field(line, node)]
    head = [*(f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)]
    head += [f"class {node.name}({bases})" if bases else f"class {node.name}", *(f"    {line}" for line in fields)]
    yield from (*_code("\n".join(head)), "", docstring(node), "")
    for method in public(node.body):
        if isinstance(method, ast.FunctionDef):
            yield from (f"#### `{node.name}.{method.name}`", "", *_code(signature(method)), "", docstring(method), "")


def _is_field(line: str, node: ast.ClassDef) -> bool:
    fields = [child for child in node.body if isinstance(child, ast.AnnAssign | ast.Assign)]
    return line in {ast.unparse(child) for child in fields} and not line.startswith("_")


def _code(text: str) -> list[str]:
    return ["```python", *text.splitlines(), "```"]
