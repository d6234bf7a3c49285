"""`cogvid sample`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cogvid.cli.run import Wait
from cogvid.errors import UserError

# What no prompt looks like.
_CHANGE = re.compile(r"generation(\.\w+)+=")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sample)


def sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PROMPT [generation.KEY=VALUE]...",
            help="What to generate, one clip each; and changes to how, such as generation.decoding.options.window=4.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text file of more prompts, one a line, - for stdin; lines that begin with # are skipped.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Clips of each prompt.")] = 1,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of the finished clip; the run's own number if not given.")
    ] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds from first to last frame.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other clips.")] = 0,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips generated at once; the run's own number if not given.")
    ] = None,
    decoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What each pass computes: an exact one gives the same clips as any other exact one."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files; they never replace others.")] = Path("samples"),
    gif: Annotated[bool, typer.Option("--gif/--no-gif", help="Write animated GIFs, too.")] = False,
    sheet: Annotated[bool, typer.Option("--sheet/--no-sheet", help="Write one picture of all clips.")] = True,
    wait: Wait = True,
) -> None:
    """Write an mp4 for each prompt; run the same command again to go on after an interruption."""
    from cogvid.pipeline.run import saved_run
    from cogvid.pipeline.sample import sample_clips

    said = [word for word in words or [] if _CHANGE.match(word)]
    wanted = [*(word for word in words or [] if word not in said), *(_read(prompts) if prompts else [])]
    if not wanted:
        where = f"{prompts} has none" if prompts else "write it behind the run's folder, or give a file with --prompts"
        raise UserError(f"No prompt says what to generate: {where}.")
    changes = {"generation.frames": frames, "generation.batch_size": batch, "generation.decoding.name": decoding}
    config, stages = saved_run(folder, [*(f"{key}={value}" for key, value in changes.items() if value), *said])
    console = Console()
    for path in sample_clips(
        config, stages, wanted, out, count=count, duration=duration, seed=seed, gif=gif, sheet=sheet, wait=wait
    ):
        console.print(str(path), soft_wrap=True)


def _read(path: Path) -> list[str]:
    """The prompts in a file, or from stdin."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = content.decode().splitlines()
    except OSError as error:
        raise UserError(f"--prompts {path}: the file cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--prompts {path}: the file is not UTF-8 text.") from error
    prompts = map(str.strip, lines)
    return [prompt for prompt in prompts if prompt and not prompt.startswith("#")]
