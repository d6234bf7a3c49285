"""The clips that the data stage found: what is known of them, which of them can be shown, their frames."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.data.reading import read_frames
from cogvid.data.sequences import sequences
from cogvid.data.text import known_characters, known_part
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Clip
from cogvid.interfaces.frame_rate import frames_at
from cogvid.pipeline.lab import Lab, log
from cogvid.progress import stage_progress

Item = TypeVar("Item")
_TABLE = "clips.jsonl"
# Decoding runs ahead of what uses the frames by so many clips, whose frames wait in memory.
_AHEAD = 4
# A warning names so many characters.
_NAMED = 10


@dataclass(frozen=True)
class TimedClip:
    """A clip of the data stage, which decodes to its last frame.

    Attributes:
        clip: file, caption and split.
        times: when its frames are shown.
    """

    clip: Clip
    times: ClipTimes

    @property
    def duration(self) -> float:
        """Seconds for which it has frames, as frame-rate schedulers are told them."""
        return self.times.reach


def write_clips(folder: Path, clips: Sequence[TimedClip]) -> None:
    """Leave the clips in the data stage's folder; paths in it are kept relative to it."""
    (folder / _TABLE).write_text("".join(json.dumps(_row(folder, timed)) + "\n" for timed in clips))


def read_clips(folder: Path, split: str) -> list[TimedClip]:
    """The clips of a finished data stage, of one split."""
    rows = [json.loads(line) for line in (folder / _TABLE).read_text().rstrip("\n").split("\n")]
    return [
        TimedClip(
            Clip(row["id"], folder / row["path"], row["caption"], row["split"]), ClipTimes.from_json(row["times"])
        )
        for row in rows
        if row["split"] == split
    ]


def _row(folder: Path, timed: TimedClip) -> dict[str, Any]:
    clip = timed.clip
    inside = clip.path.is_relative_to(folder)
    path = clip.path.relative_to(folder) if inside else clip.path.resolve()
    words = {"id": clip.id, "path": str(path), "caption": clip.caption, "split": clip.split}
    return {**words, "times": timed.times.to_json()}


def usable_clips(lab: Lab, folder: Path, split: str) -> list[TimedClip]:
    """The clips of a split that the scheduler shows at some rate.

    Args:
        lab: has the scheduler.
        folder: of the finished data stage.
        split: which.

    Raises:
        UserError: there is none to train on, or the scheduler names a rate at which a clip has too few frames.
    """
    clips = read_clips(folder, split)
    frames = lab.config.video.frames
    usable = []
    for clip in clips:
        rates = lab.scheduler.training_rates(clip.duration, frames)
        if rates and (had := frames_at(clip.duration, min(rates))) < frames:
            raise UserError(
                f"frame_rate: {lab.config.frame_rate.name} shows clip {clip.clip.id} at {min(rates):g} frames a "
                f"second, at which it has {had} of the {frames} frames of a sequence. A scheduler gives rates that "
                "fit; cogvid.interfaces.frame_rate.frames_at counts the frames."
            )
        if rates:
            usable.append(clip)
    if split == "train" and not usable:
        longest = max(clip.duration for clip in clips)
        raise UserError(
            f"frame_rate: {lab.config.frame_rate.name} finds no rate at which any clip yields {frames} frames; "
            f"the longest clip lasts {longest:.2f} s. Add a higher rate to frame_rate.options."
        )
    return usable


def warn_of_data(lab: Lab, folder: Path) -> None:
    """Say, in one line each, how many clips are too short for every rate, how many have fewer frames a second than
    they are shown at, and how many test captions have characters that no training caption has.

    Args:
        lab: has the scheduler and the windows.
        folder: of the finished data stage.

    Raises:
        UserError: all training clips are too short.
    """
    name, frames = lab.config.frame_rate.name, lab.config.video.frames
    train, test = (usable_clips(lab, folder, split) for split in ("train", "test"))
    found = sum(len(read_clips(folder, split)) for split in ("train", "test"))
    usable = len(train) + len(test)
    if usable < found:
        log.warning(
            "data: %d of the %d clips are left out: they are too short to yield %d frames at any rate of frame_rate %s",
            found - usable,
            found,
            frames,
            name,
        )
    drawn = (drawn_frames(lab, clip) for clip in (*train, *test))
    repeating = sum(any((np.diff(numbers) == 0).any() for numbers in own) for own in drawn)
    if repeating:
        log.warning(
            "data: %d of the %d clips have fewer frames a second than training asks for at the rates of frame_rate %s, "
            "so that some of their frames are shown twice in a row. Lower the rates in frame_rate.options to avoid it",
            repeating,
            usable,
            name,
        )
    known = known_characters(timed.clip.caption for timed in train)
    unknown = [caption for caption in (timed.clip.caption for timed in test) if known_part(caption, known) != caption]
    if unknown:
        log.warning(
            "data: %d of the %d test captions have characters that no training caption has, and are generated without "
            "them: %s",
            len(unknown),
            len(test),
            " ".join(map(repr, sorted(set("".join(unknown)) - known)[:_NAMED])),
        )


def drawn_frames(lab: Lab, clip: TimedClip) -> list[NDArray[np.int64]]:
    """The numbers of the frames of all sequences that training may draw from a clip, an array (starts, frames) for each
    rate and window."""
    frames = lab.config.video.frames
    windows = [lab.key_frame_times, *lab.window_times]
    rates = lab.scheduler.training_rates(clip.duration, frames)
    return [sequences(clip.times, rate, window, frames) for rate in rates for window in windows]


def decode_clips(
    clips: Sequence[TimedClip], numbers: Sequence[NDArray[np.int64]], size: int, title: str
) -> Iterator[Tensor]:
    """Frames uint8 (T, 3, size, size) of each clip by their numbers, in order, with progress."""
    return with_progress(lambda i: read_frames(clips[i].clip.path, numbers[i].tolist(), size), len(clips), title)


def with_progress(work: Callable[[int], Item], count: int, title: str) -> Iterator[Item]:
    """`work(0)`, `work(1)`, ... in two threads, shown as a progress bar; the work runs a few items ahead."""
    with stage_progress() as bar, ThreadPoolExecutor(2) as pool:
        todo = iter(range(count))
        running = deque(pool.submit(work, number) for number in islice(todo, _AHEAD))
        try:
            for _ in bar.track(range(count), description=title):
                item = running.popleft().result()
                running.extend(pool.submit(work, number) for number in islice(todo, 1))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)
