"""Pieces of source files, by name: code as it stands, signatures, docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

Named = ast.ClassDef | ast.FunctionDef
# A signature that is longer is broken, an argument a line.
_WIDTH = 92


def find(path: Path, name: str) -> Named:
    """A class or function of a file, or one in another: `SwinAR.pattern`.

    Raises:
        LookupError: there is none of that name.
    """
    node: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if isinstance(child, Named) and child.name == part]
        if not found:
            raise LookupError(f"{path} has no {name}: a page shows it")
        node = found[0]
    assert isinstance(node, Named)
    return node


def quoted(path: Path, name: str = "") -> str:
    """The code of a class or function with its decorators, moved to the left; of the whole file by default."""
    code = path.read_text(encoding="utf-8")
    if not name:
        return code.rstrip()
    node = find(path, name)
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(code.splitlines()[first - 1 : node.end_lineno]))


def signature(node: ast.FunctionDef) -> str:
    """A function's decorators and its `def`, without a body."""
    empty = ast.FunctionDef(node.name, node.args, [ast.Expr(ast.Constant(...))], [], node.returns, lineno=0)
    line = ast.unparse(empty).splitlines()[0].removesuffix(":")
    if len(line) > _WIDTH:
        inside, end = line.rsplit(")", 1)
        name, inside = inside.split("(", 1)
        line = f"{name}(\n    {inside}\n){end}"
    return "\n".join([*(f"@{ast.unparse(decorator)}" for decorator in node.decorator_list), line])


def public(nodes: list[ast.stmt]) -> Iterator[Named]:
    """The classes and functions whose names begin with no underscore, and what calls or measures an object."""
    named = (node for node in nodes if isinstance(node, Named))
    return (node for node in named if not node.name.startswith("_") or node.name in ("__call__", "__len__"))


def docstring(node: ast.AST) -> str:
    """What a class or function says of itself, as Markdown."""
    return markdown(ast.get_docstring(node) or "") if isinstance(node, Named | ast.Module) else ""


def markdown(text: str) -> str:
    """A docstring as Markdown: its sections (`Args:`, `Returns:`, ...) become lists."""
    lines, done = inspect.cleandoc(text).splitlines(), []
    while lines:
        line = lines.pop(0)
        title, colon, rest = line.partition(":")
        if not (colon and title in ("Args", "Attributes", "Raises", "Returns")):
            done.append(line)
            continue
        inside = [rest.strip()] if rest.strip() else []
        while lines and (not lines[0].strip() or lines[0].startswith("    ")):
            inside.append(lines.pop(0)[4:])
        done += [f"**{title}**", "", *_entries(inside, plain=title == "Returns"), ""]
    return "\n".join(done).strip()


def _entries(lines: list[str], plain: bool) -> list[str]:
    entries: list[str] = []
    for line in filter(str.strip, lines):
        if entries and (plain or line.startswith(" ")):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    if plain:
        return entries
    split = [entry.partition(": ") for entry in entries]
    return [f"* `{name}`: {text}" if colon else f"* {name}" for name, colon, text in split]


def checks(path: Path, name: str) -> str:
    """The list of a conformance suite's checks, out of the docstring of its function.

    Raises:
        LookupError: it has none.
    """
    _, found, rest = (ast.get_docstring(find(path, name)) or "").partition("The checks, by name:\n\n")
    if not found:
        raise LookupError(f"{path}: {name} lists no checks, and a page shows them")
    return rest.partition("\n\n")[0]
