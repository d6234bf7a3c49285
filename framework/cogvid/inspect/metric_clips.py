"""Clips of one size and length, from a data source or from any videos, to try a metric on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.reading import probe, read_frames
from cogvid.errors import UserError
from cogvid.inspect.videos import Videos
from cogvid.interfaces.data_source import DataSource
from cogvid.progress import stage_progress


class Clips(NamedTuple):
    """Clips in random order.

    Attributes:
        videos: uint8 (n, F, 3, size, size).
        captions: n texts.
    """

    videos: Tensor
    captions: list[str]


def source_clips(source: DataSource, folder: Path, count: int, frames: int, size: int, seed: int) -> Clips:
    """Clips of a data source, `frames` frames from the first to the last of each.

    Args:
        source: of videos.
        folder: where the source may write.
        count: how many.
        frames: of a clip.
        size: of a side, in pixels.
        seed: of the source, and of which clips are taken, in which order.

    Raises:
        UserError: there are fewer such clips, or one is no video that can be read.
    """
    with stage_progress() as bar:
        task = bar.add_task("clips", total=None)
        listed = [*source.clips(folder, seed, lambda done, total: bar.update(task, completed=done, total=total))]
    _check_count(len(listed), count, "the data has", "Ask for fewer by --clips, or set options of the data.")
    chosen = [listed[number] for number in np.random.default_rng(seed).permutation(len(listed))[:count]]
    videos = []
    with stage_progress() as bar:
        for clip in bar.track(chosen, description="decode"):
            file = VideoFile(clip.path, clip.member)
            had = len(probe(file).times)
            if had < frames:
                raise UserError(f"Clip {clip.id} has {had} frames, fewer than {frames}: ask for fewer by --frames.")
            numbers = np.linspace(0, had - 1, frames).round().astype(int).tolist()
            videos.append(read_frames(file, numbers, FrameFormat(size, size)))
    return Clips(torch.stack(videos), [clip.caption for clip in chosen])


def crops(folder: Path, count: int, frames: int, size: int, seed: int) -> Clips:
    """Random squares of random consecutive frames of the videos in a folder, as many of each video.

    Their sides are half of the shorter side of the video; they have no captions.

    Args:
        folder: with videos, in subfolders or tar shards, too; or one video.
        count: how many.
        frames: of a crop.
        size: of a side, in pixels.
        seed: of where they lie, and of their order.

    Raises:
        UserError: there are no videos, or one cannot be read or is shorter than `frames` frames.
    """
    if not folder.exists():
        raise UserError(f"There is no {folder}: give a folder of videos by --videos.")
    files = [VideoFile(clip.path, clip.member) for clip in Videos(folder)]
    if not files:
        raise UserError(f"There are no videos in {folder}: give another folder by --videos.")
    rng = np.random.default_rng(seed)
    each, found = math.ceil(count / len(files)), []
    with stage_progress() as bar:
        for file in bar.track(files, description="decode"):
            video = probe(file)
            if (had := len(video.times)) < frames:
                raise UserError(f"{file.path} has {had} frames, fewer than {frames}: ask for fewer by --frames.")
            found += _crops_of(
                file, (video.height, video.width), rng.integers(had - frames + 1, size=each).tolist(), size, frames, rng
            )
    order = rng.permutation(len(found))[:count]
    return Clips(torch.stack([found[number] for number in order]), [""] * count)


def _crops_of(
    file: VideoFile, sides: Sequence[int], starts: Sequence[int], size: int, frames: int, rng: np.random.Generator
) -> list[Tensor]:
    scale = 2 * size / min(sides)
    height, width = (round(side * scale) for side in sides)
    wanted = sorted({start + frame for start in starts for frame in range(frames)})
    pictures = read_frames(file, wanted, FrameFormat(height, width, "stretch"))
    found = []
    for start in starts:
        first = wanted.index(start)
        top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
        found.append(pictures[first : first + frames, :, top : top + size, left : left + size])
    return found


def _check_count(had: int, count: int, who: str, remedy: str) -> None:
    if had < count:
        raise UserError(f"{count} clips are needed, half for each side of the comparison, and {who} {had}. {remedy}")
