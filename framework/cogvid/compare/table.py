"""The comparison in a terminal: quantities down, variants across, wrapped into blocks where they are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cogvid.compare import formatting
from cogvid.compare.quantities import Group
from cogvid.compare.read import RunRecord
from cogvid.compare.summary import Comparison, Row, Split

_TITLES: dict[Group, str] = {
    "quality": "Quality",
    "held_out": "Held-out loss",
    "bounds": "Floors and ceilings",
    "cost": "Cost",
}
_PADDING = 2
# A variant made by a sweep carries all its overrides in its name.
_LABEL_WIDTH = 24
_STYLES = {"better": "green", "worse": "red", None: "dim"}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print the tables of a comparison, then what a reader must know to believe them."""
    for group, name in _TITLES.items():
        rows = comparison.group(group)
        if rows:
            for table in _tables(comparison, rows, name, console.width):
                console.print(table)
                console.print()
    if comparison.undetermined:
        console.print(f"Without a value in any run: {escape(', '.join(comparison.undetermined))}.", style="dim")
    if len(comparison.variants) > 1:
        first = escape(comparison.variants[0].label)
        console.print(
            f"Signed numbers: difference to [bold]{first}[/]. Green is better, red is worse; "
            "grey has no direction or lies within the spread (standard deviation over seeds).",
            style="dim",
        )
    for split in comparison.splits:
        console.print()
        console.print(_legend(split))
    for note in comparison.notes:
        console.print(f"Note: {escape(note)}", style="yellow")
    if comparison.incomplete:
        console.print()
        console.print(_incomplete(comparison.incomplete))


def _tables(comparison: Comparison, rows: Sequence[Row], name: str, width: int) -> Iterator[Table]:
    """Tables no wider than the terminal; each repeats the titles and the first variant."""
    titles = [Text("seeds", style="dim"), *(Text(formatting.title(row)) for row in rows)]
    columns = [_column(comparison, rows, index) for index in range(len(comparison.variants))]
    widths = [max(_width(cell) for cell in column) + _PADDING for column in columns]
    room = width - max(text.cell_len for text in titles) - _PADDING - widths[0]
    blocks: list[list[int]] = [[]]
    used = 0
    for index in range(1, len(columns)):
        if blocks[-1] and used + widths[index] > room:
            blocks.append([])
            used = 0
        blocks[-1].append(index)
        used += widths[index]
    for block in blocks:
        table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.padding = (0, _PADDING, 0, 0)
        shown = [columns[index] for index in (0, *block)]
        table.add_column("")
        for column in shown:
            table.add_column(column[0], justify="right", no_wrap=True)
        for index, text in enumerate(titles, start=1):
            table.add_row(text, *(column[index] for column in shown))
        yield table


def _width(text: Text) -> int:
    return max(cell_len(line) for line in text.plain.splitlines())


def _column(comparison: Comparison, rows: Sequence[Row], index: int) -> list[Text]:
    variant = comparison.variants[index]
    label = "\n".join(wrap(variant.label, _LABEL_WIDTH))
    cells = [Text(label, style="bold"), Text(formatting.seeds(variant), style="dim")]
    for row in rows:
        cell = Text(formatting.value(row, index, variant))
        difference = formatting.difference(row, index) if row.group != "bounds" else ""
        if difference:
            cell.append(f"  {difference}", style=_STYLES[row.verdict(index)])
        cells.append(cell)
    return cells


def _legend(split: Split) -> Table:
    title = f"{split.metric}: values under different protocols are not comparable; they differ in"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("")
    for letter in split.letters:
        table.add_column(f"[{letter}]", overflow="fold")
    for key, values in split.keys.items():
        table.add_row(key, *(Text(str(value)) for value in values))
    return table


def _incomplete(runs: Sequence[RunRecord]) -> Table:
    table = Table(title="Incomplete runs", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("run")
    table.add_column("lacks")
    for run in runs:
        table.add_row(Text(f"{run.experiment}/{run.variant}/{run.seed}"), Text(", ".join(run.lacks)))
    return table
