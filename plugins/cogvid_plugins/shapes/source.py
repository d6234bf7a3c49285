"""Data source `shapes`: captioned clips of a procedural world, some combinations kept out of training."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import above, at_least, between, each, option
from cogvid.config.sides import height_and_width, sides
from cogvid.data.video import write_video
from cogvid.interfaces.data_source import Progress, Split
from cogvid_plugins.shapes.world import ALL_ATTRIBUTES, RASTER, Attributes, Point, Scene, canvas, sample_scene

# The share of all combinations of attributes that only the test split shows.
HELD_OUT = 0.25
# Two worker processes take about as long to start as one process takes for this many clips.
WORTH_WORKERS = 300


@dataclass(frozen=True)
class Job:
    """A clip to be rendered."""

    id: str
    split: Split
    scene: Scene


class Shapes(DataSource):
    """One shape on a quiet background moves as its caption says (see `world`).

    Test clips show combinations of size, colour, shape and motion that no training clip shows; each single
    size, colour, shape and motion is in both splits.
    """

    @dataclass
    class Config:
        clips: int = option(2000, at_least(1))  # for training
        test_clips: int = option(256, at_least(0))
        size: Any = option(32, sides(between(16, 4096)))  # pixels, for both sides or as [height, width]
        fps: int = option(16, between(1, 1000))
        raster: int = option(RASTER, at_least(8))  # steps across the shorter side between starts; finer is harder
        durations: list[float] = option([1.0, 2.0, 4.0, 8.0], each(above(0, 3600)))  # seconds

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        durations, fps = self.config.durations, self.config.fps
        if min(durations) * fps < 1:
            raise UserError(
                f"shapes: at {fps} frames per second (fps), one of the durations {durations} has a single frame."
            )

    def clips(self, folder: Path, seed: int, progress: Progress) -> list[Clip]:
        """Render the clips that are not there yet, then `captions.jsonl`."""
        c, (height, width) = self.config, height_and_width(self.config.size)
        how = list(c.durations), seed, c.raster, canvas(height, width)
        jobs = [*list_jobs("train", c.clips, *how), *list_jobs("test", c.test_clips, *how)]
        clips = folder / "clips"
        clips.mkdir(parents=True, exist_ok=True)
        # Videos get their names when they are complete: what has one was finished before a stop.
        finished = {file.name for file in clips.iterdir()}
        missing = [job for job in jobs if f"{job.id}.mp4" not in finished]
        render = partial(_render, folder=clips, height=height, width=width, fps=c.fps)
        progress(len(jobs) - len(missing), len(jobs))
        for done, _ in enumerate(_run(render, missing), start=len(jobs) - len(missing) + 1):
            progress(done, len(jobs))
        _write_captions(folder / "captions.jsonl", jobs)
        return [Clip(job.id, clips / f"{job.id}.mp4", job.scene.caption, job.split) for job in jobs]


def list_jobs(
    split: Split, count: int, durations: list[float], seed: int, raster: int = RASTER, size: Point = (1.0, 1.0)
) -> list[Job]:
    """What `count` clips of a split show; each depends on the seed and its number alone.

    The split's combinations take turns, so captions repeat as late as they can.
    """
    order = np.random.default_rng(seed).permutation(len(ALL_ATTRIBUTES))
    held_out = round(HELD_OUT * len(order))
    own = order[:held_out] if split == "test" else order[held_out:]
    jobs = []
    for number in range(count):
        rng = np.random.default_rng([seed, split == "test", number])
        duration = float(rng.choice(durations))
        attributes = ALL_ATTRIBUTES[own[number % len(own)]]
        jobs.append(Job(f"{split}-{number:05d}", split, sample_scene(rng, attributes, duration, raster, size)))
    return jobs


def read_scenes(folder: Path) -> dict[str, Scene]:
    """The scenes in the `captions.jsonl` of a folder of this source, by the clips' ids."""
    scenes = {}
    for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        attributes = Attributes(row["size"], row["colour"], row["shape"], tuple(row["motion"]))
        background = tuple(row["background"])
        scene = Scene(attributes, row["duration"], tuple(row["start"]), row["travel"], background)
        scenes[row["id"]] = scene
    return scenes


def _write_captions(path: Path, jobs: list[Job]) -> None:
    partial_file = path.with_name(f".{path.name}.partial")
    try:
        with partial_file.open("w", encoding="utf-8") as file:
            for job in jobs:
                scene = asdict(job.scene)
                row = {
                    "id": job.id,
                    "file": f"clips/{job.id}.mp4",
                    "caption": job.scene.caption,
                    "split": job.split,
                    **scene.pop("attributes"),
                    **scene,
                }
                file.write(json.dumps(row) + "\n")
        partial_file.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Make room there.") from error


def _run(render: partial[None], jobs: list[Job]) -> Iterator[None]:
    """Render the jobs in order, on two processes where that is worth their start."""
    if len(jobs) < WORTH_WORKERS or (os.cpu_count() or 1) < 2:
        yield from map(render, jobs)
        return
    # Threads would wait for each other: most of the work holds the interpreter's lock. Forking a process
    # that has run torch is not safe, spawning is.
    with ProcessPoolExecutor(max_workers=2, mp_context=get_context("spawn"), initializer=_end_with_parent) as workers:
        try:
            yield from workers.map(render, jobs, chunksize=16)
        except BaseException:
            workers.shutdown(wait=True, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end when it has ended, killed perhaps.

    One that went on would write files which the next run writes, too.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _render(job: Job, folder: Path, height: int, width: int, fps: int) -> None:
    duration = job.scene.duration
    times = np.linspace(0, duration, round(duration * fps) + 1)
    write_video(folder / f"{job.id}.mp4", job.scene.render(times, height, width), fps)


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `shapes`."""
    return {"shapes": Shapes}
