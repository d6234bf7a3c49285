"""Making shards of tokens: what is there stays, what earlier stages have is taken, the rest is decoded and encoded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from torch import Tensor

from cogvid.data.files import VideoFile
from cogvid.data.frame_format import FrameFormat
from cogvid.data.messages import in_messages
from cogvid.data.reading import read_frames
from cogvid.data.tokens import Shard, code_type, shard_path, write_shard
from cogvid.errors import UserError
from cogvid.interfaces.frame_tokenizer import FrameTokenizer
from cogvid.pipeline.lab import Lab, log
from cogvid.pipeline.stage import StageResult
from cogvid.pipeline.token_plan import PlannedClip, TokenPlan
from cogvid.pipeline.token_reuse import EarlierTokens
from cogvid.pipeline.tokenizer_stage import decode, encode, load_tokenizer
from cogvid.progress import stage_progress

# Clips after which it is said how long all will take.
_MEASURED = 32


@dataclass(frozen=True)
class Part:
    """One of `of` parts of the shards, counted from 1."""

    number: int = 1
    of: int = 1

    @property
    def name(self) -> str:
        """In the names of files."""
        return f"{self.number}-of-{self.of}"

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def shards(self, count: int) -> range:
        """Which of `count` shards it makes."""
        return range(self.number - 1, count, self.of)


class ShardMaker:
    """Makes the shards of a plan.

    Args:
        lab: has the size of frames and the frame tokenizer.
        plan: of the clips.
        tokenizer: the finished stage.
        earlier: finished tokens stages of the same tokenizer; asked for where there is something to make.
        folder: of the shards.
        title: the stage's name.
    """

    def __init__(
        self,
        lab: Lab,
        plan: TokenPlan,
        tokenizer: StageResult,
        earlier: Iterable[StageResult],
        folder: Path,
        title: str = "tokens",
    ) -> None:
        self.lab, self.plan, self.folder, self.title = lab, plan, folder, title
        self._tokenizer, self._stages = tokenizer, earlier

    def make(self, part: Part) -> None:
        """Make the shards of a part that are not there yet.

        Raises:
            UserError: the disk is too small, or a video is not what the data stage found.
        """
        own = part.shards(self.plan.shards)
        if not own:
            log.info("%s, part %s: nothing to make, there are %d shards", self.title, part, self.plan.shards)
        todo = [number for number in own if not self._path(number).exists()]
        if todo and self._earlier:
            todo = [number for number in todo if not self._link(number, part)]
        if not todo:
            return
        clips = sum(len(self.plan.members(number)) for number in todo)
        work = _Estimate(self, todo)
        work.begin()
        with stage_progress() as bar:
            name = self.title if part.of == 1 else f"{self.title}, part {part}"
            task = bar.add_task(name, total=clips)
            for number in todo:
                self._make(number, part, work, bar, task)

    def to_encode(self, number: int) -> NDArray[np.int32]:
        """The clips of a shard that no earlier stage has."""
        members = self.plan.members(number)
        return members[~self._earlier.has(self.plan.heads[members])]

    @cached_property
    def _earlier(self) -> EarlierTokens:
        return EarlierTokens(self._stages)

    @cached_property
    def _network(self) -> FrameTokenizer:
        return load_tokenizer(self.lab, self._tokenizer)

    def _path(self, number: int) -> Path:
        return shard_path(self.folder, number)

    def _link(self, number: int, part: Part) -> bool:
        return self._earlier.link(self._path(number), self.plan.digest(number), part.name)

    def _make(self, number: int, part: Part, work: _Estimate, bar: Progress, task: TaskID) -> None:
        clips = self.plan.shard_clips(number)
        starts = self.plan.first[self.plan.members(number)].tolist()
        grid = self.lab.grid
        shard = Shard.empty(self.plan.frames([number]), len(clips), grid.height, grid.width, self.lab.codes)
        rest = []
        for place, (clip, start) in enumerate(zip(clips, starts, strict=True)):
            end = start + len(clip.numbers)
            shard.numbers[start:end] = clip.numbers
            found = self._earlier.find(clip.key)
            if found is None:
                rest.append(place)
            else:
                shard.codes[start:end], numbers, shard.errors[place] = found
                assert (numbers == clip.numbers).all(), clip
                bar.advance(task)
        form = self.lab.frame_format
        size = 3 * form.height * form.width * max((len(clips[place].numbers) for place in rest), default=0)
        for place, frames in zip(rest, in_messages(frames_of(clips, form), rest, size), strict=True):
            codes = encode(self._network, frames)
            start, middle = starts[place], len(frames) // 2
            shard.codes[start : start + len(frames)] = codes.numpy()
            again = decode(self._network, codes[middle : middle + 1])[0]
            shard.errors[place] = int((again.long() - frames[middle].long()).square().sum())
            bar.advance(task)
            work.encoded(len(frames))
        write_shard(self._path(number), shard, self.plan.digest(number), part.name)


def frames_of(clips: Sequence[PlannedClip], form: FrameFormat) -> Callable[[int], Tensor]:
    """Decodes a clip of these by its place, as uint8 (frames, 3, height, width).

    What it gives raises UserError for a video that is no longer what the data stage found.
    """

    def work(place: int) -> Tensor:
        clip = clips[place]
        name, file = clip.timed.clip.id, VideoFile.of(clip.timed.clip)
        try:
            if not f"{file.state()} ".startswith(f"{clip.state} ") and file.sha256() != clip.sha256:
                raise UserError(
                    f"tokens: the video {file} of clip {name} is not the file that the data stage read: it was changed "
                    "since. Run the command again, which reads changed files anew, or put the old file back."
                )
            return read_frames(file, (clip.numbers + clip.timed.first).tolist(), form)
        except OSError as error:
            raise UserError(
                f"tokens: the video {file} of clip {name} cannot be read any more: {error.strerror}. Put it back, or "
                "remove the clip from the data, and run the command again."
            ) from error

    return work


class _Estimate:
    """What there is to do, said once the first clips tell how long it takes."""

    def __init__(self, maker: ShardMaker, todo: Sequence[int]) -> None:
        plan, grid = maker.plan, maker.lab.grid
        self._folder, self._title = maker.folder, maker.title
        self.clips = sum(len(plan.members(number)) for number in todo)
        self.frames = plan.frames(todo)
        cell = code_type(maker.lab.codes)().itemsize
        self.bytes = self.frames * (grid.height * grid.width * cell + 4) + self.clips * 8
        encoded = [plan.count[maker.to_encode(number)] for number in todo]
        self._todo_clips, self._todo_frames = sum(map(len, encoded)), sum(int(counts.sum()) for counts in encoded)
        self._clips = self._frames = 0
        self._started = time.perf_counter()

    def begin(self) -> None:
        """Refuse a disk that is too small, while nothing is written yet; of a little work, say what it is."""
        free = shutil.disk_usage(self._folder).free
        if self.bytes > free:
            raise UserError(
                f"{self._title}: {self.frames} frames of {self.clips} clips take {megabytes(self.bytes)}, and "
                f"{self._folder} has {megabytes(free)} free. Make room there, or choose another folder with --runs."
            )
        if self._todo_clips <= _MEASURED:
            self._say("")

    def encoded(self, frames: int) -> None:
        """One more clip is done."""
        self._clips, self._frames = self._clips + 1, self._frames + frames
        if self._clips == _MEASURED < self._todo_clips:
            seconds = (time.perf_counter() - self._started) / self._frames * self._todo_frames
            self._say(f", in about {duration(seconds)}")

    def _say(self, when: str) -> None:
        size = megabytes(self.bytes)
        clips, frames, encoded = self.clips, self.frames, self._todo_clips
        log.info("%s: %d frames of %d clips, %s; %d clips to encode%s", self._title, frames, clips, size, encoded, when)


def megabytes(count: int) -> str:
    """Bytes, for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """For people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"
