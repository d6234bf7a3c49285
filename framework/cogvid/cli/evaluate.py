"""`cogvid evaluate`: scores of a finished run, or of any videos against any real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cogvid.cli.run import Wait, console
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.pipeline.evaluate_run import FinishedRun

_FEATURES = ".cogvid-features"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Finished runs, and key=value changes of their evaluation."),
    ] = None,
    real: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Real videos: files of any format, or folders of frames.")
    ] = None,
    generated: Annotated[Path | None, typer.Option(metavar="DIR", help="The videos to score, likewise.")] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of configs/protocol, or a YAML file.")
    ] = None,
    extractor: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="The protocol's network; NAME=FILE for each where it has several."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON file for values and protocols.")] = Path(
        "evaluation.json"
    ),
    device: Annotated[str, typer.Option(help="Where networks read the videos: cpu or cuda.")] = "cpu",
    features: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Keeps what networks have read; {_FEATURES} beside --out if not given."),
    ] = None,
    write_real: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the real clips that were compared with, and a CSV.")
    ] = None,
    wait: Wait = True,
) -> None:
    """Score finished runs by more metrics, or any folder of videos against real ones; nothing is generated."""
    if write_real is not None and write_real.exists():
        raise UserError(f"--write-real {write_real} exists already; name a folder that does not.")
    folders = {"--real": real, "--generated": generated, "--protocol": protocol}
    if words:
        given = [name for name, value in folders.items() if value is not None]
        if given or extractor:
            raise UserError(
                f"{', '.join([*given, *(['--extractor'] if extractor else [])])}: these belong to an evaluation of two "
                "folders, and a run has its own. Change its evaluation with evaluation=... or evaluation.metrics=..."
            )
        _evaluate_runs(words, write_real, wait)
        return
    if missing := [name for name, value in folders.items() if value is None]:
        raise UserError(
            f"There is nothing to evaluate: name finished runs, or two folders with --real, --generated and "
            f"--protocol (without {', '.join(missing)} it is not said what)."
        )
    assert real is not None
    assert generated is not None
    assert protocol is not None
    _evaluate_folders(real, generated, protocol, extractor or [], out, device, features, write_real)


def _evaluate_runs(words: list[str], write_real: Path | None, wait: bool) -> None:
    from cogvid.pipeline.evaluate_run import evaluate_run, finished_run
    from cogvid.pipeline.logs import log_to_terminal

    log_to_terminal()
    changes = [word for word in words if "=" in word and not Path(word).exists()]
    folders = [Path(word) for word in words if word not in changes]
    if not folders:
        raise UserError("No run is named: cogvid evaluate RUN evaluation.metrics=...")
    if write_real is not None and len(folders) > 1:
        raise UserError("--write-real: the clips of one run fit into a folder; name one run.")
    # A mistake in the last of several should show before the first is scored.
    runs: list[FinishedRun] = [finished_run(folder, changes) for folder in folders]
    for run in runs:
        record = evaluate_run(run, wait)
        print_scores(record, str(run.folder))
        if write_real is not None:
            _write(run.reference, write_real)
        console.print(f"Written: {run.folder / 'metrics.json'}", soft_wrap=True)


def _evaluate_folders(
    real: Path,
    generated: Path,
    protocol: str,
    extractors: list[str],
    out: Path,
    device: str,
    features: Path | None,
    write_real: Path | None,
) -> None:
    from cogvid.pipeline.check import check_folder
    from cogvid.pipeline.evaluate_folders import evaluate_folders
    from cogvid.pipeline.logs import log_to_terminal
    from cogvid.pipeline.stage import write_json

    log_to_terminal()
    if out.exists() and not _is_evaluation(out):
        raise UserError(f"--out {out} holds something else than an evaluation; name another file.")
    check_folder(out.absolute().parent, "--out")
    kept = features if features is not None else out.absolute().parent / _FEATURES
    check_folder(kept, "--features")
    done = evaluate_folders(real, generated, protocol, extractors, kept, device)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_json(out, done.record)
    print_scores(done.record, str(generated))
    if write_real is not None:
        _write(done.reference, write_real)
    console.print(f"Written: {out}", soft_wrap=True)


def _write(reference: Any, out: Path) -> None:
    from cogvid.pipeline.write_real import write_real

    write_real(reference, out)
    console.print(f"Real clips: {out}", soft_wrap=True)


def _is_evaluation(path: Path) -> bool:
    try:
        return {"format", "sets", "protocols"} <= json.loads(path.read_bytes()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def print_scores(record: dict[str, Any], title: str) -> None:
    """The values of all sets as a table, each with its standard error where it has one."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("value", overflow="fold")
    table.add_column("protocol", no_wrap=True)
    sets = list(record["sets"])
    for name in sets:
        table.add_column(name.replace("_", " "), justify="right")
    for key, meanings in record["meanings"].items():
        for value, meaning in meanings.items():
            found = {name: record["sets"][name].get(key) for name in sets}
            # Values of other protocols stand in rows of their own: nobody should compare them by eye either.
            for protocol in dict.fromkeys(entry["protocol"] for entry in found.values() if entry):
                cells = [
                    _shown(entry["values"], value, meaning["error"]) if entry and entry["protocol"] == protocol else ""
                    for entry in found.values()
                ]
                arrow = {"higher": " ↑", "lower": " ↓"}.get(meaning["better"] or "", "")
                unit = f" ({meaning['unit']})" if meaning["unit"] else ""
                table.add_row(f"{meaning['title']}{unit}{arrow}", protocol[:6], *cells)
    Console().print(table)


def _shown(values: dict[str, float | None], name: str, error: str) -> str:
    value, spread = values.get(name), values.get(error) if error else None
    if value is None:
        return "not determined"
    return f"{value:.4g}" + (f" (se {spread:.2g})" if spread is not None else "")
