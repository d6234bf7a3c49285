"""The videos of a report: prompts side by side, all seeds, as many as the page has room for."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av

from cogvid.compare.comparison import Row
from cogvid.compare.read import RunRecord

Prompt = tuple[str, float]
Files = list[tuple[int | None, Path]]


@dataclass(frozen=True)
class Shot:
    """One video in the page.

    Attributes:
        seed: of its run; None for a real one, which belongs to all.
        url: the file itself as a data URL.
        frames: of it.
        fps: of them in a second.
    """

    seed: int | None
    url: str
    frames: int
    fps: float


@dataclass(frozen=True)
class Scene:
    """A prompt with what was made of it.

    Attributes:
        caption: of it.
        rate: key frames per second that were asked for.
        columns: the real clip, then the variants: a video for each seed.
        left_out: seeds of variants that the page had no room for.
    """

    caption: str
    rate: float
    columns: tuple[tuple[Shot, ...], ...]
    left_out: int = 0

    @property
    def frames(self) -> int:
        """Of the longest of its videos."""
        return max((shot.frames for column in self.columns for shot in column), default=0)

    @property
    def fps(self) -> float:
        """Of the fastest of its videos."""
        return max((shot.fps for column in self.columns for shot in column), default=0.0)


@dataclass(frozen=True)
class Screening:
    """The videos of a report.

    Attributes:
        scenes: those with videos.
        left_out: prompts whose videos are not in the page.
        seeds: that have any.
        unreadable: files that are no videos.
    """

    scenes: tuple[Scene, ...]
    left_out: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    unreadable: tuple[str, ...]


def screening(variants: Sequence[Row], most: int, budget: int) -> Screening:
    """The first prompts, none of them picked, real and from every seed of every variant.

    A prompt whose videos do not fit into what is left of the budget is shown of its first seed alone; where not even
    that fits, it is left out, and named.

    Args:
        variants: in the order of their columns.
        most: prompts.
        budget: bytes of the files as they stand in the page.
    """
    prompts = list(
        dict.fromkeys(prompt for row in variants for run in row.runs for prompt in run.videos.get("generated", {}))
    )
    scenes: list[Scene] = []
    left_out: list[Prompt] = []
    unreadable: list[str] = []
    for prompt in prompts:
        files = _files(variants, prompt)
        first = [column[:1] for column in files]
        chosen = next((c for c in (files, first) if _size(c) <= budget), None) if len(scenes) < most else None
        if chosen is None:
            left_out.append(prompt)
            continue
        budget -= _size(chosen)
        columns = tuple(tuple(_shots(column, unreadable)) for column in chosen)
        missing = sum(map(len, files)) - sum(map(len, chosen))
        scenes.append(Scene(*prompt, columns, missing))
    seeds = sorted({shot.seed for s in scenes for column in s.columns for shot in column if shot.seed is not None})
    return Screening(tuple(scenes), tuple(left_out), tuple(seeds), tuple(unreadable))


def _files(variants: Sequence[Row], prompt: Prompt) -> list[Files]:
    """Of the real clip, which is one for all, and of each variant: seeds with files."""
    real: Files = [(None, file) for _, file in _of([run for row in variants for run in row.runs], "real", prompt)]
    made: list[Files] = [[(run.seed, file) for run, file in _of(row.runs, "generated", prompt)] for row in variants]
    return [real[:1], *made]


def _of(runs: Sequence[RunRecord], videos: str, prompt: Prompt) -> Iterator[tuple[RunRecord, Path]]:
    for run in runs:
        file = run.videos.get(videos, {}).get(prompt)
        if file is not None and file.is_file():
            yield run, file


def _size(columns: Sequence[Sequence[tuple[int | None, Path]]]) -> int:
    """Bytes in base 64."""
    return sum(-(-file.stat().st_size // 3) * 4 for column in columns for _, file in column)


def _shots(files: Sequence[tuple[int | None, Path]], unreadable: list[str]) -> Iterator[Shot]:
    for seed, file in files:
        try:
            frames, fps = _timing(file)
        except (OSError, ValueError):
            unreadable.append(str(file))
            continue
        yield Shot(seed, "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode(), frames, fps)


def _timing(file: Path) -> tuple[int, float]:
    """How many frames, and how many in a second: a browser tells neither, and steps need both.

    Raises:
        ValueError: the file has no frames.
        OSError: it is no video file.
    """
    with av.open(str(file)) as container:
        if not container.streams.video:
            raise ValueError(f"{file} has no video")
        stream = container.streams.video[0]
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        fps = float(stream.average_rate or 0)
    if not frames or not fps:
        raise ValueError(f"{file} has no frames")
    return frames, fps
