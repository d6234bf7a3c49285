"""`cogvid inspect`: what an attention pattern sees and costs, in how many steps it generates; what a metric sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cogvid.cli.inspect_metrics import metrics
from cogvid.cli.inspect_passes import listed, show_clip
from cogvid.cli.values import StageName, parse_grid, parse_place
from cogvid.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cogvid.inspect.mask import MaskNumbers, Subject
    from cogvid.inspect.schedule import ScheduleNumbers


class _MaskByDefault(TyperGroup):
    """Reads `inspect attention=swin_ar` as `inspect mask attention=swin_ar`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["mask", *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the command group `inspect`."""
    group = typer.Typer(
        cls=_MaskByDefault,
        no_args_is_help=True,
        help="Show what follows from an attention pattern: its mask (`mask` may be left out), or its schedule; or the "
        "passes of a run's clip. Or show what a metric sees.",
    )
    group.command()(mask)
    group.command()(schedule)
    group.command()(metrics)
    app.add_typer(group, name="inspect")


_Words = Annotated[
    list[str],
    typer.Argument(
        metavar="[EXPERIMENT] [attention=NAME] [key=value]...",
        help="An experiment, an attention backend, or both; and changes to them.",
    ),
]
_GridText = Annotated[
    str | None, typer.Option(metavar="FxHxW", help="Frames, rows, columns of tokens; the experiment's or 5x20x20.")
]
_Stage = Annotated[StageName, typer.Option(help="Whose causal order.")]


def mask(
    words: _Words,
    grid: _GridText = None,
    stage: _Stage = StageName.sequential,
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


def schedule(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[EXPERIMENT | RUN] [attention=NAME] [key=value]...",
            help="An experiment, an attention backend, or both; and changes to them. With --clip, the folder of a run, "
            "and changes to its `generation`.",
        ),
    ],
    grid: _GridText = None,
    stage: _Stage = StageName.sequential,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The picture, or a .gif that runs; schedule-NAME.png by default, schedule-clip-N.gif with --clip.",
        ),
    ] = None,
    clip: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Generate this test clip of a run, and show its passes.")
    ] = None,
    decoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --clip, what each pass computes; else as the run has it.")
    ] = None,
) -> None:
    """Show the shortest schedule of an attention pattern: its steps, what forces them, and a picture. Or, with --clip,
    the passes that really generate a clip of a run."""
    from rich.console import Console

    if clip is not None:
        if grid or stage is not StageName.sequential:
            raise UserError("--clip: a run's clip has its grid and stages: leave out --grid and --stage.")
        show_clip(words, clip, decoding, out or Path(f"schedule-clip-{clip}.gif"))
        return
    if decoding:
        raise UserError("--decoding: what it computes is shown of a clip: name the folder of a run, and --clip N.")

    from cogvid.inspect.figure import SUFFIXES, check_suffix
    from cogvid.inspect.schedule import schedule_numbers
    from cogvid.inspect.schedule_animation import animate_schedule
    from cogvid.inspect.schedule_picture import draw_schedule

    subject = _subject(words, grid, stage)
    path = out or Path(f"schedule-{subject.name}.png")
    check_suffix(path, (*SUFFIXES, ".gif"))
    console = Console()
    numbers = schedule_numbers(subject)
    _print_schedule(console, numbers)
    _print_path(console, numbers)
    with Console(stderr=True).status("drawing"):
        (animate_schedule if path.suffix.lower() == ".gif" else draw_schedule)(numbers, path)
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


def _print_schedule(console: Console, numbers: ScheduleNumbers) -> None:
    from rich.table import Table

    subject, grid, widths = numbers.subject, numbers.subject.grid, numbers.widths
    title = f"{subject.name} on {grid.frames}x{grid.height}x{grid.width}, {subject.stage}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_row("layers looked at", f"{subject.layers}")
    table.add_row("slots generated", f"{numbers.slots:,}")
    table.add_row("steps", f"{numbers.steps:,}")
    table.add_row("sequential steps", f"{numbers.slots:,}")
    table.add_row("speed-up", f"{numbers.slots / numbers.steps:.2f} x")
    table.add_row("slots in a step", f"mean {numbers.slots / numbers.steps:.2f}, widest {int(widths.max()):,}")
    table.add_section()
    for frame in listed(grid.frames):
        steps = None if frame is None else numbers.frame_steps(frame)
        name = "..." if frame is None else f"frame {frame}"
        table.add_row(name, f"steps {steps[0]:,} to {steps[1]:,}" if steps else "" if frame is None else "given")
    console.print(table)


def _print_path(console: Console, numbers: ScheduleNumbers) -> None:
    """The critical path, a line a run, and where the path comes to it."""
    width = numbers.subject.grid.width

    def place(slot: int) -> str:
        return f"slot {slot:,} (row {slot // width}, column {slot % width})"

    lines = ["", "Critical path: each of these slots had to wait for the one before it."]
    for before, run in zip((None, *numbers.path), numbers.path, strict=False):
        line = f"frame {run.frame}: slots {run.first:,}-{run.last:,}, steps {run.start:,}-{run.stop:,}"
        if before:
            seen = f"{place(before.last)} of frame {before.frame}"
            line += f"; {place(run.first)} sees {seen} in layer {run.layer}"
        lines.append(line)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
