"""The comparison for papers and pull requests: LaTeX with booktabs, and Markdown; bold is what is judged better."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from cogvid.compare import formatting
from cogvid.compare.comparison import Column, Comparison, Row

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "²": r"$^2$",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
}
_LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", None: ""}
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#~&])")


def to_latex(comparison: Comparison, everything: bool = False) -> str:
    """A tabular for `\\usepackage{booktabs}`; what its numbers are stands above it as a comment.

    Args:
        comparison: what to show.
        everything: all columns, not the headline alone.
    """
    columns = formatting.shown_columns(comparison, everything)
    lines = [f"% {' '.join(line.split())}" for line in _said(comparison, columns)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    heads = [f"{_latex(_head(column))} {_LATEX_ARROWS[column.better]}".strip() for column in columns]
    lines += [" & ".join(["", *heads]) + r" \\", r"\midrule"]
    for kind, rows in (("variant", comparison.variants), ("bound", comparison.bounds)):
        lines += [r"\midrule"] if kind == "bound" and rows else []
        for row in rows:
            # Behind the end of a row, LaTeX would read [ and * as options of it.
            label = f"{{}}{_latex(row.label)}" if kind == "variant" else rf"\emph{{{_latex(row.label)}}}"
            values = _values(comparison, row, columns, _latex, r"\textbf{%s}")
            lines.append(" & ".join([label, *values]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def to_markdown(comparison: Comparison, everything: bool = False) -> str:
    """A table as GitHub shows it, and below it what its numbers are.

    Args:
        comparison: what to show.
        everything: all columns, not the headline alone.
    """
    columns = formatting.shown_columns(comparison, everything)
    heads = [f"{_markdown(_head(column))} {formatting.ARROWS[column.better]}".strip() for column in columns]
    lines = [["", *heads], ["---", *("---:" for _ in columns)]]
    for row in comparison.rows:
        label = _markdown(row.label) if row.kind == "variant" else f"*{_markdown(row.label)}*"
        lines.append([label, *_values(comparison, row, columns, _markdown, "**%s**")])
    table = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([*table, "", *(f"{_markdown(line)}  " for line in _said(comparison, columns)), ""])


def _head(column: Column) -> str:
    return formatting.title(column, {"higher": "", "lower": "", None: ""})


def _values(
    comparison: Comparison, row: Row, columns: Sequence[Column], escaped: Callable[[str], str], bold: str
) -> Iterator[str]:
    for column in columns:
        cell = row.cells.get(column.key)
        if cell is None:
            yield "--" if bold.startswith("\\") else "-"
            continue
        text = formatting.value(row, cell, formatting.numbers(comparison, column))
        better = cell.difference is not None and cell.difference.verdict == "better"
        yield bold % escaped(text) if better else escaped(text)


def _said(comparison: Comparison, columns: Sequence[Column]) -> Iterator[str]:
    yield "Means over seeds ± half of the 95% interval (Student's t)."
    if len(comparison.variants) > 1:
        yield (
            f"Bold: better than {comparison.baseline}, paired by seed, p below 0.05 after Holm's correction over "
            f"{formatting.judged(comparison)} differences."
        )
    for column in columns:
        if column.protocol in comparison.protocols and column.group == "quality":
            record = comparison.protocols[column.protocol]
            yield f"{column.title}: {', '.join(f'{key} {value}' for key, value in record.items())}."
    yield from comparison.notes


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
