"""The videos below a folder, whoever made them: what each of them is, found out once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import VIDEO_SUFFIXES, VideoFile
from cogvid.data.reading import probe
from cogvid.data.workers import in_order
from cogvid.errors import UserError
from cogvid.pipeline.frame_folders import FRAME_SUFFIXES, check_frame, frame_files, frames_state, natural
from cogvid.pipeline.stage import write_json
from cogvid.progress import stage_progress

LOOKS = "videos.json"
_FORMAT = 1


@dataclass(frozen=True)
class Look:
    """What a video is.

    Attributes:
        state: of its file or files: while it stays, the rest holds.
        content: SHA-256 of the bytes.
        times: of its frames, as `ClipTimes.to_json` gives them; for a folder of frames, which has none, an interval
            is 1.
        timed: whether the times are seconds.
        height, width: in pixels, as a player shows it.
        codec: FFmpeg's names of its codec and of what its pixels are stored in, or `frames` and their suffix.
    """

    state: str
    content: str
    times: dict[str, Any]
    timed: bool
    height: int
    width: int
    codec: str


@dataclass(frozen=True)
class FolderVideo:
    """A video file, or a folder of frames.

    Attributes:
        id: its path inside the folder that was named.
        path: the file or the folder.
        look: what it is.
        times: of its frames.
    """

    id: str
    path: Path
    look: Look
    times: ClipTimes


def videos_below(folder: Path, option: str) -> list[tuple[str, Path]]:
    """Ids and paths of the videos below a folder, in natural order: video files, and folders of PNG or JPEG files.

    Raises:
        UserError: there is no such folder, or it has fewer than two videos.
    """
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: there is no such folder.")
    found: set[Path] = set()
    for path in folder.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found.add(path)
        elif path.suffix.lower() in FRAME_SUFFIXES:
            found.add(path.parent)
    if len(found) < 2:
        what = "one video" if found else "no video"
        raise UserError(
            f"{option} {folder}: there is {what} below it, and a score needs at least two: video files, or a folder of "
            "PNG or JPEG frames for each video."
        )
    ids = {path.relative_to(folder).as_posix(): path for path in found}
    return sorted(ids.items(), key=lambda item: natural(item[0]))


def look_at_videos(folder: Path, option: str, kept: Path) -> list[FolderVideo]:
    """All videos below a folder, decoded to their last frame, with progress; what has been seen before is not opened.

    Args:
        folder: that was named.
        option: that named it, for messages.
        kept: folder of what is known of videos.

    Raises:
        UserError: as `videos_below`; or one of them cannot be read, or its frames have other values than 0 to 255.
    """
    found = videos_below(folder, option)
    known = _known(kept / LOOKS)
    looks: dict[str, Look] = {}
    todo = []
    for _, path in found:
        name = str(path.absolute())
        look = known.get(name)
        if look is not None and look.state == _state(path):
            looks[name] = look
        else:
            todo.append(path)
    if todo:
        try:
            for path, look in zip(todo, _looks(todo, f"look at {option}"), strict=True):
                looks[str(path.absolute())] = look
        finally:
            _keep(kept / LOOKS, known | looks)
    own = [(name, path, looks[str(path.absolute())]) for name, path in found]
    return [FolderVideo(name, path, look, ClipTimes.from_json(look.times)) for name, path, look in own]


def _looks(paths: list[Path], title: str) -> Iterator[Look]:
    with stage_progress() as bar:
        looks = in_order(lambda place: _look(paths[place]), range(len(paths)))
        yield from bar.track(looks, total=len(paths), description=title)


def _look(path: Path) -> Look:
    if path.is_dir():
        return _look_at_frames(path)
    state = _state(path)
    video = probe(path)
    codec = f"{video.codec} {video.pixel_format}"
    content = VideoFile(path).sha256()
    return Look(state, content, video.times.to_json(), True, video.height, video.width, codec)


def _look_at_frames(folder: Path) -> Look:
    files = frame_files(folder)
    state, sizes = frames_state(files), {check_frame(path): path for path in files}
    if len(sizes) > 1:
        (one, other), (first, second) = list(sizes.values())[:2], list(sizes)[:2]
        raise UserError(
            f"The frames of {folder} are of several sizes: {one.name} has {first[1]}x{first[0]} pixels, {other.name} "
            f"{second[1]}x{second[0]}. A folder of frames is one video."
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    ((height, width),) = sizes
    kinds = sorted({path.suffix.lower().lstrip(".") for path in files})
    times = ClipTimes(np.arange(len(files)), Fraction(1)).to_json()
    return Look(state, digest.hexdigest(), times, False, height, width, f"frames {', '.join(kinds)}")


def _state(path: Path) -> str:
    return frames_state(frame_files(path)) if path.is_dir() else VideoFile(path).state()


def _known(path: Path) -> dict[str, Look]:
    """What a file keeps; nothing where it is damaged, or not there."""
    try:
        said = json.loads(path.read_bytes())
        if said["format"] != _FORMAT:
            return {}
        return {name: Look(**look) for name, look in said["videos"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _keep(path: Path, looks: dict[str, Look]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"format": _FORMAT, "videos": {name: asdict(look) for name, look in looks.items()}})
