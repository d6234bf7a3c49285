"""Whether a data source keeps the promises of its interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cogvid.config.options import first_line
from cogvid.data.files import VideoFile
from cogvid.data.reading import probe
from cogvid.data.table import found_row
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip, DataSource
from cogvid.interfaces.token_source import TokenSource
from cogvid.testing import token_source
from cogvid.testing.data_listing import SEED, Rows, difference, listing, listing_elsewhere, rows_of
from cogvid.testing.findings import Findings, maker

CHECKS = (
    "clips",
    "ids",
    "splits",
    "videos",
    "folder",
    "progress",
    "again",
    "stopped",
    "elsewhere",
    "fingerprint",
    "nothing",
)


def data_source_conformance(
    source: DataSource | TokenSource | str,
    options: Mapping[str, Any] | None = None,
    *,
    plugins: Sequence[str] = (),
    nothing: Sequence[Mapping[str, Any]] | None = None,
    videos: int = 16,
) -> None:
    """Hold a data source to its interface, on videos that are all whole; a token source to its own (`token_source`).

    The checks, by name:

    * `clips`: it lists some, as `Clip` has them, with captions and names that are text; some are to train on.
    * `ids`: no two clips have one.
    * `splits`: no video is in both.
    * `videos`: a clip's video can be decoded to its last frame, and has frames in the clip's span.
    * `folder`: a source that only reads leaves nothing in the folder of its own.
    * `progress`: is told whole numbers, (done, total), with done from 0 to total.
    * `again`: listed again, and in another folder, they are the same ones in the same order, and so are the files made.
    * `stopped`: the same holds where an earlier listing stopped half-way.
    * `elsewhere`: the same holds in another process; for a source that is given by its name.
    * `fingerprint`: it is a text, the same one before and after the clips are listed, and elsewhere.
    * `nothing`: where there is nothing to train on, a `UserError` says so, and names the folder.

    Args:
        source: the source, or its registered name.
        options: values for the fields of its `Config`; goes with a name.
        plugins: modules or ./files.py to load beside the installed plugins; goes with a name.
        nothing: options with which there is nothing to train on. By default, of a source that is given by its name and
            has an option `path`, a folder that does not exist and an empty one.
        videos: how many clips, spread over the list, are decoded.

    Raises:
        ConformanceError: a check fails; the message lists every failed check and its first clip. Its cause is the first
            exception that the source raised, if any.
        UserError: there is no such source.
    """
    make = maker("data", source, options, plugins)
    one = make()
    found = Findings(token_source.CHECKS if isinstance(one, TokenSource) else CHECKS)
    with TemporaryDirectory() as temporary:
        home = Path(temporary)
        if isinstance(one, TokenSource):
            token_source.check(make, found)
        else:
            _check(make, home, videos, found)
            if isinstance(source, str) and not found:
                theirs = listing_elsewhere(source, options or {}, plugins, home)
                _check_elsewhere(listing(make(), home / "first"), theirs, found)
        if isinstance(source, str):
            wrong = _nothing(one.config, options or {}, home) if nothing is None else nothing
            for number, each in enumerate(wrong):
                (folder := home / f"nothing-{number}").mkdir()
                _check_nothing(maker("data", source, each, plugins), each, options or {}, folder, found)
    found.conclude(one)


def _check(make: Callable[[], DataSource], home: Path, videos: int, found: Findings) -> None:
    one, folder, anew, stopped = make(), home / "first", home / "anew", home / "stopped"
    for own in (folder, anew, stopped):
        own.mkdir()
    before, clips = "", []
    with found.trying("fingerprint", "before"):
        before = one.fingerprint()
        if not isinstance(before, str):
            found.add("fingerprint", "before", f"{before!r} is no text")
    with found.trying("clips", "the list"):
        clips = list(one.clips(folder, SEED, _watched(found)))
    good = [clip for clip in clips if _is_clip(clip, found)]
    if not any(clip.split == "train" for clip in good):
        found.add("clips", "the list", f"none of {len(clips)} clips is to train on")
    listed: Rows = []
    with found.trying("clips", "the list"):
        listed = rows_of(good, folder)
    if found:
        return
    _check_list(clips, found)
    for clip in clips[:: max(1, len(clips) // videos)]:
        with found.trying("videos", clip.id):
            if problem := _video_problem(clip):
                found.add("videos", clip.id, problem)
    left = [path.name for path in folder.iterdir()]
    if left and not any(clip.path.is_relative_to(folder) for clip in clips):
        found.add("folder", left[0], "lies in the folder of its own, and no clip does")
    with found.trying("fingerprint", "after"):
        for other in (one, make()):
            if (after := other.fingerprint()) != before:
                found.add("fingerprint", "after", f"{before!r} has become {after!r}")
    with found.trying("again", "the list"):
        for own in (folder, anew):
            _compare("again", listed, rows_of(make().clips(own, SEED, _watched(found)), own), found)
    with found.trying("stopped", "the list"):
        _stop(make(), stopped, len(clips))
        _compare("stopped", listed, rows_of(make().clips(stopped, SEED, _watched(found)), stopped), found)


def _is_clip(clip: Any, found: Findings) -> bool:
    """Whether a clip has what others can work with; what it has not is found."""
    problem, name = "", "the list"
    if not isinstance(clip, Clip):
        problem = f"has {clip!r}, which is no Clip"
    else:
        name, texts = str(clip.id), (clip.id, clip.caption, *clip.captions)
        if not all(isinstance(text, str) and text.strip() for text in texts):
            problem = f"its id or a caption is no text: {texts}"
        elif not isinstance(clip.path, Path):
            problem = f"its path is no Path: {clip.path!r}"
        elif clip.split not in ("train", "test"):
            problem = f"it is of the split {clip.split!r}"
        elif clip.span is not None and not 0 <= clip.span[0] < clip.span[1] < math.inf:
            problem = f"it is from second {clip.span[0]} to {clip.span[1]}"
    if problem:
        found.add("clips", name, problem)
    return not problem


def _check_list(clips: Sequence[Clip], found: Findings) -> None:
    ids: set[str] = set()
    splits: dict[VideoFile, Clip] = {}
    for clip in clips:
        if clip.id in ids:
            found.add("ids", clip.id, "another clip has this id, too")
        ids.add(clip.id)
        other = splits.setdefault(VideoFile.of(clip), clip)
        if other.split != clip.split:
            found.add("splits", clip.id, f"is of {clip.split}, and clip {other.id} of the same video of {other.split}")


def _video_problem(clip: Clip) -> str:
    try:
        problem: str = found_row(clip, probe(VideoFile.of(clip)))["problem"]
        return problem
    except UserError as error:
        return str(error)


def _compare(check: str, one: Rows, other: Rows, found: Findings) -> None:
    if (changed := difference(one, other)) is not None:
        found.add(check, *changed)


class _Stopped(KeyboardInterrupt):
    """As a user stops a command."""


def _stop(source: DataSource, folder: Path, clips: int) -> None:
    """List clips up to the middle, as far as it is shown or told."""

    def progress(done: int, total: int) -> None:
        if 2 * done >= total:
            raise _Stopped

    with suppress(_Stopped):
        for number, _ in enumerate(source.clips(folder, SEED, progress)):
            if 2 * number >= clips:
                break


def _watched(found: Findings) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if not (isinstance(done, int) and isinstance(total, int) and 0 <= done <= total):
            found.add("progress", "the list", f"{done!r} of {total!r} clips are done")

    return progress


def _check_elsewhere(mine: Mapping[str, Any], theirs: Mapping[str, Any] | str, found: Findings) -> None:
    if isinstance(theirs, str):
        found.add("elsewhere", "the list", f"raises {theirs}")
        return
    _compare("elsewhere", mine["rows"], theirs["rows"], found)
    if mine["fingerprint"] != theirs["fingerprint"]:
        found.add("fingerprint", "elsewhere", f"{mine['fingerprint']!r} is {theirs['fingerprint']!r} there")


def _nothing(config: Any, options: Mapping[str, Any], home: Path) -> list[dict[str, Any]]:
    """Options that name a folder which does not exist, and an empty one."""
    missing, empty = home / "missing", home / "empty"
    empty.mkdir()
    has_path = "path" in {field.name for field in fields(config)}
    return [{**options, "path": str(path)} for path in (missing, empty)] if has_path else []


def _check_nothing(
    make: Callable[[], Any], wrong: Mapping[str, Any], right: Mapping[str, Any], folder: Path, found: Findings
) -> None:
    """Args: wrong: options of the source; right: those of one that has something; folder: of its own."""
    case = ", ".join(f"{key} {value!r}" for key, value in wrong.items() if right.get(key) != value)
    with found.trying("nothing", case):
        try:
            source = make()
            source.fingerprint()
            if isinstance(source, TokenSource):
                source.check()
            else:
                list(source.clips(folder, SEED, lambda done, total: None))
            found.add("nothing", case, "is taken without a word")
        except UserError as error:
            if "path" in wrong and Path(wrong["path"]).name not in str(error):
                found.add("nothing", case, f"the folder is not named: {first_line(error)}")
