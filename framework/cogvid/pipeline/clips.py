"""The clips that the data stage found: which of them can be shown, what there is to say of them, their frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cogvid.data.clip_times import ClipTimes
from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.messages import in_messages
from cogvid.data.reading import read_frames
from cogvid.data.sequences import FrameTimes, sequences
from cogvid.data.table import ClipTable, TimedClip
from cogvid.errors import UserError
from cogvid.interfaces.data_source import Split
from cogvid.interfaces.frame_rate import frames_at
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import Info
from cogvid.progress import stage_progress

TABLE = "clips.arrow"


def read_clips(folder: Path, split: Split) -> ClipTable:
    """The clips of a split that a finished data stage found without a problem."""
    return ClipTable.open(folder / TABLE).used(split)


def usable_clips(lab: Lab, folder: Path, split: Split) -> ClipTable:
    """The clips of a split that the scheduler shows at some rate.

    Args:
        lab: has the scheduler.
        folder: of the finished data stage.
        split: which.

    Raises:
        UserError: there is none to train on, or the scheduler names a rate at which a clip has too few frames.
    """
    clips, frames = read_clips(folder, split), lab.config.video.frames
    # Few durations are many clips'.
    durations, first, which = np.unique(
        clips.column("reach").to_numpy(zero_copy_only=False), return_index=True, return_inverse=True
    )
    shown = np.zeros(len(durations), dtype=bool)
    for number, duration in enumerate(durations.tolist()):
        rates = lab.scheduler.training_rates(duration, frames)
        if rates and (had := frames_at(duration, min(rates))) < frames:
            raise UserError(
                f"frame_rate: {lab.config.frame_rate.name} shows clip {clips[int(first[number])].clip.id} at "
                f"{min(rates):g} frames a second, at which it has {had} of the {frames} frames of a sequence. A "
                "scheduler gives rates that fit; cogvid.interfaces.frame_rate.frames_at counts the frames."
            )
        shown[number] = bool(rates)
    if split == "train" and not shown.any():
        raise UserError(
            f"frame_rate: {lab.config.frame_rate.name} finds no rate at which any clip yields {frames} frames; "
            f"the longest clip lasts {durations[-1]:.2f} s. Add a higher rate to frame_rate.options."
        )
    return clips.pick(clips.rows[shown[which]])


def held_out_clips(lab: Lab, clips: ClipTable) -> ClipTable:
    """Of test clips those that losses are reported on: at most `held_out.clips`, whatever the run's seed."""
    random = np.random.default_rng((lab.config.data_seed, 5))
    chosen = random.permutation(len(clips))[: lab.config.held_out.clips]
    return clips.pick(clips.rows[np.sort(chosen)])


def warn_of_data(lab: Lab, folder: Path) -> None:
    """Say, in one line each, how many clips are too short for every rate, and how many have fewer frames a second than
    they are shown at.

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
    repeating = sum(_repeating(lab, clips) for clips in (train, test))
    if repeating:
        log.warning(
            "data: %d of the %d clips have fewer frames a second than training asks for at the rates of frame_rate %s, "
            "so that some of their frames are shown twice in a row. Lower the rates in frame_rate.options to avoid it",
            repeating,
            usable,
            name,
        )


def _repeating(lab: Lab, clips: ClipTable) -> int:
    """How many of the clips are shown with some frame twice in a row."""
    repeats = repeats_by_timing(lab)
    return sum(having for timing, reach, having in clips.timings() if repeats(timing, reach))


def repeats_by_timing(lab: Lab) -> Callable[[str, float], bool]:
    """Whether training may show a clip with some frame twice in a row: it has fewer a second than are asked for.

    Asked with a value of the column `times`, and the clip's reach in seconds.
    """
    steps = (after - before for window in _windows(lab) for before, after in pairwise(window))
    closest, frames = min(steps, default=0.0), lab.config.video.frames
    highest = lru_cache(maxsize=None)(lambda reach: max(lab.scheduler.training_rates(reach, frames)))

    def repeats(timing: str, reach: float) -> bool:
        said = json.loads(timing)
        longest = max((gap for _, gap in said["gaps"]), default=0) * Fraction(said["unit"])
        # Frames that all stand for less than the closest times are apart need not be looked at one by one.
        if float(longest) * highest(reach) < closest * (1 - 1e-9):
            return False
        return any((np.diff(numbers) == 0).any() for numbers in drawn_frames(lab, ClipTimes.from_json(said)))

    return repeats


def _windows(lab: Lab) -> list[FrameTimes]:
    return [lab.key_frame_times, *lab.window_times]


def drawn_frames(lab: Lab, times: ClipTimes) -> list[NDArray[np.int64]]:
    """The numbers of the frames of all sequences that training may draw from a clip, an array (starts, frames) for each
    rate and window."""
    frames = lab.config.video.frames
    rates = lab.scheduler.training_rates(times.reach, frames)
    return [sequences(times, rate, window, frames) for rate in rates for window in _windows(lab)]


def rates_and_windows(lab: Lab) -> Info:
    """What decides which frames of a clip are drawn, for the keys of stages."""
    return {"frame_rate": lab.identity("frame_rate", lab.config.frame_rate), "windows": lab.window_times}


def decode_clips(
    clips: Sequence[TimedClip], numbers: Sequence[NDArray[np.int64]], form: FrameFormat, title: str
) -> Iterator[Tensor]:
    """Frames uint8 (T, 3, height, width) of each clip by their numbers, in order, with progress."""

    def work(place: int) -> Tensor:
        clip = clips[place]
        return read_frames(VideoFile.of(clip.clip), (numbers[place] + clip.first).tolist(), form)

    each = max(map(len, numbers[:16]), default=0) * 3 * form.height * form.width
    with stage_progress() as bar:
        yield from bar.track(in_messages(work, range(len(clips)), each), total=len(clips), description=title)
