"""`cogvid inspect metrics`: what a metric sees, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.inspect.metric_clips import Clips
    from cogvid.interfaces.data_source import DataSource
    from cogvid.plugins.manager import PluginManager

_DATA = "data."


def metrics(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="A metric, for example fvd.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Options of the metric; with data. before them, of --data."),
    ] = None,
    data: Annotated[str, typer.Option(metavar="NAME", help="A data source whose clips to use.")] = "shapes",
    videos: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="In its place, random crops of the videos in a folder.")
    ] = None,
    clips: Annotated[int, typer.Option(min=2, help="Clips on each side.")] = 128,
    frames: Annotated[int, typer.Option(min=1, help="Of a clip.")] = 17,
    size: Annotated[int, typer.Option(min=8, help="Pixels of a side.")] = 32,
    strengths: Annotated[str, typer.Option(metavar="N,...", help="Of each corruption, 1 to 5.")] = "1,2,3,4,5",
    value: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which of the metric's values to show; by default the first.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of clips and corruptions.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A JSON of all values; a Markdown table is written beside it.")
    ] = None,
) -> None:
    """Score real clips made worse in ten ways and five strengths against other real ones: what should move a metric
    is seen to, or not."""
    import json

    from rich.console import Console
    from rich.table import Table

    from cogvid.cli.bench_options import write
    from cogvid.inspect.metrics import markdown, rows, sight
    from cogvid.plugins.manager import create_plugin_manager

    wanted = _strengths(strengths)
    manager, words = create_plugin_manager(), options or []
    built = manager.create("metric", metric, _options(word for word in words if not word.startswith(_DATA)))
    built.check(frames, size, size)
    shown = value or next(iter(built.meanings))
    known = {*built.meanings, *(meaning.error for meaning in built.meanings.values())} - {""}
    if shown not in known:
        raise UserError(f"--value {shown}: {metric} gives {', '.join(sorted(known))}.")
    for path in (out, out and out.with_suffix(".md")):
        if path:
            write(path, "")  # a folder that cannot be written to should show before the work
    source = None if videos else _source(manager, data, words)
    found = sight(built, _clips(source, videos, 2 * clips, frames, size, seed), wanted, seed)
    table = rows(found, shown)
    meaning = built.meanings.get(shown)
    title = f"{meaning.title if meaning else shown}: {clips} clips of {frames} frames on each side"
    drawn = Table(title=title, title_justify="left")
    for number, name in enumerate(table[0][:-1]):
        drawn.add_column(name, justify="right" if number else "left")
    for row in table[1:]:
        drawn.add_row(*row[:-1])
    Console().print(drawn)
    if out:
        whole = {
            "metric": metric,
            "options": words,
            "data": str(videos) if videos else data,
            "clips": clips,
            "seed": seed,
            "protocol": found.protocol,
            "real": found.real,
            "corrupted": found.corrupted,
        }
        write(out, json.dumps(whole, indent=2) + "\n")
        write(out.with_suffix(".md"), markdown(table))
        typer.echo(f"{out}\n{out.with_suffix('.md')}")


def _strengths(text: str) -> list[int]:
    from cogvid.metrics.corruptions import STRENGTHS

    try:
        wanted = sorted({int(part) for part in text.split(",")})
    except ValueError:
        wanted = []
    if not wanted or not set(wanted) <= set(STRENGTHS):
        raise UserError(f"--strengths {text}: give numbers from 1 to 5 with commas between, for example 1,3,5.")
    return wanted


def _options(words: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    words = list(words)
    for word in words:
        if "=" not in word:
            raise UserError(f"{word!r} is no option: options are key=value, for example extractor=shapes3d.")
    found = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _source(manager: PluginManager, name: str, words: list[str]) -> DataSource:
    from cogvid.interfaces.data_source import DataSource

    source = manager.create("data", name, _options(word[len(_DATA) :] for word in words if word.startswith(_DATA)))
    if not isinstance(source, DataSource):
        raise UserError(f"--data {name} has tokens instead of videos: name a source of videos.")
    return source


def _clips(source: DataSource | None, videos: Path | None, count: int, frames: int, size: int, seed: int) -> Clips:
    from tempfile import TemporaryDirectory

    from cogvid.inspect.metric_clips import crops, source_clips

    if source is None:
        assert videos is not None
        return crops(videos, count, frames, size, seed)
    with TemporaryDirectory() as folder:
        return source_clips(source, Path(folder), count, frames, size, seed)
