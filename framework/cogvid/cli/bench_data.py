"""`cogvid bench data`: decoding, encoding and loading clips, first whether they are right, then how fast they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvid.cli.bench_options import default_path, machine, record, write
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.bench.data import ClipSet
    from cogvid.pipeline.lab import Lab

_PROTOCOL = (
    "Seconds of all clips of a set, median and minimum over interleaved rounds. The bare PyAV loop opens, decodes with "
    "one thread, converts to rgb24 with one converter, resizes as ours and ends with the same array, uint8 (frames, 3, "
    "height, width); that of PyAV's pages converts each frame by itself and stacks nothing. All frames are equal "
    "before they are timed. A table is opened in a fresh process; its memory is what the process grew by."
)
DEFAULT = "quickstart"


def data(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT|FOLDER] [key=value]...",
            help="Whose clips are decoded; by default made-up ones, small and large.",
        ),
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips of a set, at most; a sixteenth of the large.")] = 512,
    workers: Annotated[str, typer.Option(metavar="N,...", help="Processes that decode; 0 for this one.")] = "0,1,2",
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels of a side; the experiment's by default, 64 for the large clips.")
    ] = None,
    table: Annotated[int, typer.Option(min=0, metavar="ROWS", help="Clips of the made-up table; 0 for none.")] = 10**6,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which each way is timed once.")] = 5,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="All of it on tiny sets, in seconds; the numbers mean nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The JSON; benchmarks/data-cpu.json by default.")
    ] = None,
) -> None:
    """Check what is decoded, drawn and read of a table, then time it beside PyAV's own loop."""
    import tempfile

    from rich.console import Console

    from cogvid.bench.data import run_clips
    from cogvid.bench.data_loading import run_loading
    from cogvid.bench.data_report import (
        clips_json,
        clips_lines,
        loading_json,
        loading_lines,
        table_json,
        table_lines,
        targets,
    )
    from cogvid.bench.data_table import run_table

    counts = _counts(workers)
    lab = _lab(words or [])
    if rehearse:
        clips, table, repeats = min(clips, 4), min(table, 5000), 1
    path = out or default_path("data", rehearse, gpu=False)
    write(path, "")  # a folder that cannot be written to should show before the work
    arguments = {
        "words": words or [],
        "clips": clips,
        "workers": counts,
        "size": size,
        "table": table,
        "repeats": repeats,
    }
    console, found, results = Console(), dict[str, Any](), []

    def say(lines: list[str]) -> None:
        console.print("\n".join(lines), markup=False, highlight=False)
        # After each part, so that an interruption leaves those before it.
        write(path, record("data", rehearse, arguments, _PROTOCOL, **found))

    console.print(machine("cpu", "uint8"), markup=False, highlight=False)
    with tempfile.TemporaryDirectory() as temporary, Console(stderr=True).status("") as status:
        found["sets"] = []
        for clip_set, left_out in _sets(words or [], lab, Path(temporary), clips, size, rehearse):
            results.append(run_clips(clip_set, counts, repeats, lab, status.update))
            results[-1].left_out += left_out
            found["sets"].append(clips_json(results[-1]))
            say(clips_lines(results[-1]))
        status.update("loading")
        loading = run_loading(lab, 32 if rehearse else 1000, repeats)
        found["loading"] = loading_json(loading)
        say(loading_lines(loading))
        opened = None
        if table:
            status.update(f"a table of {table:,} clips")
            opened = run_table(Path(temporary) / "table", lab.config, table, 20 if rehearse else 1000)
            found["table"] = table_json(opened)
            say(table_lines(opened))
    aims = targets(results, loading, opened)
    found["targets"] = [{**vars(aim), "reached": aim.reached} for aim in aims]
    say(["targets" + (": a rehearsal reaches none" if rehearse else ""), *(aim.line() for aim in aims)])
    console.print(f"Results: {path}", markup=False, soft_wrap=True)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [-1]
    if min(counts) < 0:
        raise UserError(f"--workers: {text!r} is no list of numbers of processes, such as 0,2.")
    return list(dict.fromkeys(counts))


def _lab(words: list[str]) -> Lab:
    """The experiment that is named; quickstart, for a folder with the folder's clips, where none is."""
    from cogvid.config.compose import load_experiment
    from cogvid.pipeline.lab import Lab

    named, changes = (words[0], words[1:]) if words and "=" not in words[0] else (DEFAULT, words)
    if Path(named).is_dir():
        import json

        options = json.dumps({"path": str(Path(named).absolute())}, ensure_ascii=False)
        changes, named = [f"data={{name: folder, options: {options}}}", *changes], DEFAULT
    resolved = load_experiment(named, None, changes)
    return Lab(resolved.config, resolved.provenance)


def _sets(
    words: list[str], lab: Lab, folder: Path, count: int, size: int | None, rehearse: bool
) -> list[tuple[ClipSet, int]]:
    from cogvid.bench.data import clip_set, first_clips, large_clips
    from cogvid.data.frame_format import FrameFormat

    form = FrameFormat(size, size) if size else None
    if words and ("=" not in words[0] or any(word.startswith("data") for word in words)):
        own = form or lab.frame_format
        return [
            clip_set(f"{lab.config.data.name}, {own.height}x{own.width}", first_clips(lab, folder / "own", count), own)
        ]
    small = first_clips(_lab([f"data.options={{clips: {count}, test_clips: 0}}", *words]), folder / "shapes", count)
    shape = (48, 64, 8) if rehearse else (240, 320, 250)
    large = large_clips(folder / "large", max(count // 16, 2), shape)
    side = size or (32 if rehearse else 64)
    return [
        clip_set("shapes", small, form),
        clip_set(f"large, resized to {side}x{side}", large, FrameFormat(side, side)),
        clip_set("large, as they are", large, None),
    ]
