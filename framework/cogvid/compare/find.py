"""Finds runs in folders: in the order of the experiment file, and with those that it lists and that are not there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cogvid.compare.read import RUN_FILES, RunRecord, is_run, read_evaluation, read_run
from cogvid.compare.trouble import LOG, what_ended
from cogvid.errors import UserError
from cogvid.pipeline.listing import Listing, read_listing

_WHAT = "give `cogvid compare` run, variant or experiment folders, or files that `cogvid evaluate --out` wrote (*.json)"


def find_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """The runs in run, variant and experiment folders and the evaluations in files, in the order given and each once.

    Within an experiment folder variants come in the order of the experiment file, as `cogvid ablate` and `cogvid run`
    keep it; others behind them, `default` first and the rest by name. What the experiment lists and what has no folder
    is found as missing.

    Raises:
        UserError: a folder or file is missing or has no run in it.
    """
    found: dict[Path, RunRecord] = {}
    for path in paths:
        for run in _runs(path):
            found.setdefault(run.folder, run)
    return list(found.values())


def _runs(path: Path) -> Iterator[RunRecord]:
    absolute = Path(os.path.abspath(path))
    if path.is_file() and path.suffix == ".json":
        yield read_evaluation(absolute)
        return
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: {_WHAT}.")
    if is_run(absolute):
        yield read_run(absolute)
        return
    folders = run_folders(absolute)
    if not any(folders.values()):
        raise UserError(
            f"{path} holds no run: a run is a folder <experiment>/<variant>/<seed> with {RUN_FILES[0]}, "
            "as `cogvid run` writes it. Give one, or the variant or experiment folder around it."
        )
    for folder, is_there in folders.items():
        if is_there:
            yield read_run(folder)
        else:
            # One that ended before it could say what it is has a log at most.
            ended = what_ended(folder) if (folder / LOG).is_file() else ""
            named = folder.parents[1].name, folder.parent.name, int(folder.name)
            yield RunRecord(folder, *named, ended=ended, missing=True)


def run_folders(path: Path) -> dict[Path, bool]:
    """The folders of the runs in an experiment's or a variant's folder, in the order in which they are shown.

    Args:
        path: absolute.

    Returns:
        Of each folder whether a run is there; one where none is belongs to what the experiment lists.
    """
    folders = [folder for folder in (*path.glob("*"), *path.glob("*/*")) if folder.name.isdigit()]
    runs = {folder for folder in folders if is_run(folder)}
    experiment = path.parent if any(folder.parent == path for folder in runs) else path
    listing = read_listing(experiment)
    # Of a variant's folder, what is missing from that variant.
    variants = [v for v in listing.variants if path in (experiment, experiment / v)]
    listed = {experiment / variant / str(seed) for variant in variants for seed in listing.seeds}
    return {folder: folder in runs for folder in sorted(runs | listed, key=lambda run: _place(run, listing))}


def _place(run: Path, listing: Listing) -> tuple[int, bool, str, int]:
    variant = run.parent.name
    place = listing.variants.index(variant) if variant in listing.variants else len(listing.variants)
    return place, variant != "default", variant, int(run.name)
