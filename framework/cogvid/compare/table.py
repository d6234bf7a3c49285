"""The comparison in a terminal: variants down, quantities across, wrapped into blocks where they are many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cogvid.compare import formatting
from cogvid.compare.comparison import Column, Comparison, Row, Split
from cogvid.compare.formatting import NO_VALUE, Numbers

_PADDING = 2
_LABEL_WIDTH = 28
_HEAD_WIDTH = 20
_STYLES = {"better": "green", "worse": "red"}


def print_comparison(comparison: Comparison, console: Console, everything: bool = False) -> None:
    """Print the table of a comparison, then what a reader must know to believe it.

    Args:
        comparison: what to print.
        console: where to.
        everything: all columns, not the headline alone.
    """
    columns = formatting.shown_columns(comparison, everything)
    for table in _tables(comparison, columns, console.width):
        console.print(table)
        console.print()
    for line in _explanations(comparison, columns):
        console.print(line, style="dim")
    for measure, split in comparison.splits.items():
        name = escape(measure.replace("_", " "))
        console.print(f"\n[bold]{name}[/]: values under different protocols are not comparable; they differ in")
        console.print(_legend(split))
    for note in comparison.notes:
        console.print(f"Note: {escape(note)}", style="yellow")
    if comparison.troubles:
        console.print()
        console.print(_troubles(comparison))


def _tables(comparison: Comparison, columns: Sequence[Column], width: int) -> Iterator[Table]:
    """Tables no wider than the terminal; each repeats the labels of the rows."""
    labels = _labels(comparison)
    drawn = [[_head(column), *_cells(comparison, column)] for column in columns]
    widths = [max(map(_width, cells)) + _PADDING for cells in drawn]
    room = width - sum(max(map(_width, cells)) + _PADDING for cells in labels)
    blocks: list[list[int]] = [[]]
    used = 0
    for index, needed in enumerate(widths):
        if blocks[-1] and used + needed > room:
            blocks.append([])
            used = 0
        blocks[-1].append(index)
        used += needed
    for block in blocks:
        table = Table(box=None, pad_edge=False)
        table.padding = (0, _PADDING, 0, 0)
        for cells in labels:
            table.add_column(cells[0], vertical="top", no_wrap=True)
        for index in block:
            table.add_column(drawn[index][0], justify="right", vertical="top", no_wrap=True)
        for number in range(1, len(comparison.rows) + 1):
            # Floors and ceilings stand apart.
            last = len(comparison.variants) == number and bool(comparison.bounds)
            cells = [*(cells[number] for cells in labels), *(drawn[index][number] for index in block)]
            table.add_row(*cells, end_section=last)
            if last:
                table.add_row()
        yield table


def _labels(comparison: Comparison) -> list[list[Text]]:
    """The columns that name the rows: of sweeps, one for each key."""
    keys = list(dict.fromkeys(key for row in comparison.rows for key in row.swept))
    names = [
        Text(
            "\n".join(wrap(row.base if row.swept else row.label, _LABEL_WIDTH)),
            "dim" if row.kind == "bound" else "bold",
        )
        for row in comparison.rows
    ]
    columns = [[Text(), *names]] if any(name.plain for name in names) else []
    for key in keys:
        head = Text("\n".join(wrap(key.replace(".", ". "), _HEAD_WIDTH)).replace(". ", "."), style="bold")
        columns.append([head, *(Text(row.swept.get(key, "")) for row in comparison.rows)])
    seeds = [Text("seeds", style="dim")]
    seeds += [Text(str(len(row.runs)) if row.runs else "", style="dim") for row in comparison.rows]
    return [*columns, seeds]


def _head(column: Column) -> Text:
    return Text("\n".join(wrap(formatting.title(column), _HEAD_WIDTH, break_on_hyphens=False)), style="bold")


def _cells(comparison: Comparison, column: Column) -> Iterator[Text]:
    shown = formatting.numbers(comparison, column)
    for row in comparison.rows:
        yield _cell(row, column, shown)


def _cell(row: Row, column: Column, shown: Numbers) -> Text:
    cell = row.cells.get(column.key)
    muted = "dim" if row.kind == "bound" else ""
    if cell is None:
        return Text(NO_VALUE, style="dim")
    mean, half = shown.value(cell)
    text = Text(mean, style=muted)
    if half and column.unit != "count":
        text.append(f" ± {half}")
    elif cell.error is not None and row.kind == "variant":
        text.append(f" (se {shown(cell.error)})", style="dim")
    if few := formatting.partial(row, cell):
        text.append(f" ({few})", style="dim")
    if cell.difference is not None and (cell.difference.mean or column.group != "cost"):
        text.append(f"\n{shown.difference(cell.difference)}", style=_STYLES.get(cell.difference.verdict, "dim"))
    return text


def _width(text: Text) -> int:
    return max((cell_len(line) for line in text.plain.splitlines()), default=0)


def _explanations(comparison: Comparison, columns: Sequence[Column]) -> Iterator[str]:
    hidden = [column for column in comparison.columns if column not in columns]
    if hidden:
        yield f"{len(hidden)} more columns with --all."
    if comparison.undetermined:
        yield f"Without a value in any run: {escape(', '.join(comparison.undetermined))}."
    if len(comparison.variants) > 1:
        tests = formatting.judged(comparison)
        yield (
            "± is the 95% interval over seeds. Below a value: its difference to "
            f"[bold]{escape(comparison.baseline)}[/], paired by seed. Better or worse: p below 0.05 after Holm's "
            f"correction over the {tests} judged differences; only headlines are judged, and times never."
        )


def _legend(split: Split) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for letter in split.letters:
        table.add_column(Text(f"[{letter}]"), overflow="fold")
    for key, values in split.keys.items():
        table.add_row(Text(key), *(Text(value) for value in values))
    return table


def _troubles(comparison: Comparison) -> Table:
    table = Table(title="Runs in trouble", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("cause", overflow="fold")
    for trouble in comparison.troubles:
        table.add_row(Text(trouble.run), Text(trouble.cause))
    return table
