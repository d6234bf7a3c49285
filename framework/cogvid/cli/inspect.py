"""`cogvid inspect`: what an attention pattern sees, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.cli.values import StageName, parse_grid, parse_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cogvid.inspect.mask import MaskNumbers, Subject


def register(app: typer.Typer) -> None:
    """Add the command `inspect`."""
    app.command("inspect")(_inspect)


def _inspect(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[EXPERIMENT] [attention=NAME] [key=value]...",
            help="An experiment, an attention backend, or both; and changes to them.",
        ),
    ],
    grid: Annotated[
        str | None, typer.Option(metavar="FxHxW", help="Frames, rows, columns of tokens; the experiment's or 5x20x20.")
    ] = None,
    stage: Annotated[StageName, typer.Option(help="Whose causal order.")] = StageName.sequential,
    layer: Annotated[
        list[int] | None, typer.Option(min=0, help="Layer whose mask to show; may be repeated. By default 0 and 1.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(metavar="F,R,C", help="Whose keys to draw: frame, row, column, from 0.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture; attention-NAME.png by default.")
    ] = None,
) -> None:
    """Show the mask of an attention pattern: its pairs, its blocks, its cost, and a picture."""
    from rich.console import Console

    from cogvid.inspect.mask import mask_numbers
    from cogvid.inspect.picture import check_token, default_token, draw, key_of_letters, letters, seen_by

    subject = _subject(words, grid, stage)
    place = check_token(parse_place(token), subject.grid) if token else default_token(subject)
    masks = mask_numbers(subject, sorted(set(layer or (0, 1))))
    path = out or Path(f"attention-{subject.name}.png")
    draw(subject, masks, place, path)
    console = Console()
    _print_numbers(console, subject, masks)
    drawn = {mask.title: letters(seen_by(mask, place), console.width) for mask in masks}
    for title, text in drawn.items():
        if text:
            console.print(f"\nWhat token {place} sees, {title}", markup=False, highlight=False)
            console.print(text, style="cyan", markup=False, highlight=False, soft_wrap=True)
    if any(drawn.values()):
        console.print(key_of_letters(), style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nPicture: {path}", markup=False, soft_wrap=True)


def _subject(words: Sequence[str], grid: str | None, stage: StageName) -> Subject:
    """What the words name: an experiment if the first is no `key=value`, and changes."""
    from cogvid.inspect.target import attention_alone, attention_of_experiment

    given = parse_grid(grid) if grid else None
    if "=" in words[0]:
        return attention_alone(words, given, stage.value)
    return attention_of_experiment(words[0], words[1:], given, stage.value)


def _print_numbers(console: Console, subject: Subject, masks: Sequence[MaskNumbers]) -> None:
    from rich.table import Table

    from cogvid.inspect.mask import BLOCK, FLOPS_PER_PAIR, block_counts

    grid, size = subject.grid, subject.head_size
    title = f"{subject.name} on {grid.frames}x{grid.height}x{grid.width}, {subject.stage}; text not counted"
    table = Table("", *(mask.title for mask in masks), title=title, title_justify="left")

    def row(name: str, *values: str) -> None:
        table.add_row(name, *values)

    row("visible pairs", *(f"{mask.compact.pairs:,}" for mask in masks))
    row("  of all pairs", *(f"{mask.compact.pairs / grid.tokens**2:.2%}" for mask in masks))
    row("  of causal pairs", *(f"{mask.compact.pairs / mask.causal_pairs:.2%}" for mask in masks))
    seen = [mask.keys_per_query for mask in masks]
    row("keys per query", *(f"mean {s.double().mean():,.1f}, {s.min():,} to {s.max():,}" for s in seen))
    table.add_section()
    row(f"{BLOCK}x{BLOCK} blocks: full, partial, empty (visited)")
    for order, maps in {"raster": [mask.raster for mask in masks], "chosen": [mask.chosen for mask in masks]}.items():
        counts = [", ".join(f"{count:,}" for count in block_counts(blocks)) for blocks in maps]
        shares = [f"({blocks.occupancy:.1%})" for blocks in maps]
        row(f"  in {order} order", *map(" ".join, zip(counts, shares, strict=True)))
    table.add_section()
    row(f"GFLOP of a head of {size}, forward (x visible)")
    computed = [mask.computed_pairs for mask in masks]
    for way in computed[0]:
        gflop = [pairs[way] * FLOPS_PER_PAIR * size / 1e9 for pairs in computed]
        more = [pairs[way] / mask.compact.pairs for pairs, mask in zip(computed, masks, strict=True)]
        row(f"  {way}", *(f"{g:,.3f} ({m:.2f} x)" for g, m in zip(gflop, more, strict=True)))
    console.print(table)
