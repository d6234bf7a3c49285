"""Data source `kinetics`: Kinetics-400, -600 and -700, in class folders or by the official CSV files.

W. Kay and others: The Kinetics Human Action Video Dataset (2017). A CSV file has the columns label, youtube_id,
time_start, time_end and split, older ones is_cc; a clip that is cut already is called <id>_<start>_<end>.mp4, with six
digits for each of the seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import each, file_name, one_of, option
from cogvid.interfaces.data_source import Progress, Split
from cogvid_plugins.data.lines import TextLines, csv_rows
from cogvid_plugins.data.trees import (
    LeftOut,
    caption_pattern,
    captioned,
    existing_folder,
    file_digest,
    file_state,
    fingerprint,
    is_text,
    listed,
    log_classes,
    report,
    there_is,
    videos,
    words,
)

Part = Literal["train", "val", "test"]
# What the parts of the set are called, in CSV files and as folders.
PARTS: dict[str, Part] = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
EXAMPLE = "abseiling/0347ZoDXyP0_000095_000105.mp4"
COLUMNS = ("youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True)
class Segment:
    """A row of a CSV file: seconds of a video on YouTube."""

    place: str
    label: str
    video: str
    start: float
    end: float
    part: Part

    @property
    def name(self) -> str:
        """Of the clip, and of a file that holds nothing else."""
        return f"{self.video}_{int(self.start):06d}_{int(self.end):06d}"


class Kinetics(DataSource):
    """Kinetics, as most people have it.

    Without `annotations`: clips that are cut already, in the folders `train`, `val` and `test`, each with a folder for
    each class. With them: files anywhere below the folder, found by their names. <id>_<start>_<end>.mp4 is a clip,
    <id>.mp4 a whole video of which the seconds from start to end are the clip. One of `val` and `test` is what models
    are tested on; the other is left out.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # the folder of the videos; relative to the current directory
        annotations: list[str] = option([], each(file_name(), least=0))  # official CSV files; [] for class folders
        test: str = option("val", one_of("val", "test"))  # the part that models are tested on
        caption: str = option("{label}", caption_pattern())  # {label} is the class: playing guitar

    def fingerprint(self) -> str:
        """The CSV files, and names, sizes and times of the videos."""
        home = existing_folder(self.config.path, "kinetics")
        read = [file_digest(path) for path in self._annotations]
        return fingerprint([*read, *((name, file_state(home / name)) for name in videos(home))])

    def clips(self, folder: Path, seed: int, progress: Progress) -> Iterator[Clip]:
        """The clips of the class folders, or those of the CSV files that are there; nothing is written."""
        home = existing_folder(self.config.path, "kinetics")
        counts, labels = dict[Split, int](train=0, test=0), set[str]()
        for label, clip in self._by_csv(home) if self.config.annotations else self._by_folder(home):
            labels.add(label)
            counts[clip.split] += 1
            yield clip
            done = sum(counts.values())
            report(progress, done, done)
        if not counts["train"]:
            raise self._wrong(home, counts["test"])
        log_classes("kinetics", len(labels), counts["train"], counts["test"])

    def _by_folder(self, home: Path) -> Iterator[tuple[str, Clip]]:
        other, misplaced = LeftOut(), LeftOut()
        for name in videos(home):
            above, *below = PurePosixPath(name).parts
            part = PARTS.get(above)
            if part is None or len(below) < 2:
                misplaced.add(name)
            elif split := self._split(part):
                label = words(below[0])
                yield label, Clip(name, home / name, captioned(self.config.caption, label), split)
            else:
                other.add(name)
        self._warn_of_parts(home, other)
        misplaced.warn(home, "they are in no folder of a class in train, val or test")

    def _by_csv(self, home: Path) -> Iterator[tuple[str, Clip]]:
        there = _files(home)
        other, gone, again, mixed, unlisted = (LeftOut() for _ in range(5))
        # A whole video is in one split, with all its clips.
        tested = {s.video for s in self._segments() if self._split(s.part) == "test" and s.name not in there}
        done, named = set[str](), set[str]()
        for segment in self._segments():
            split, name = self._split(segment.part), segment.name
            whole = name not in there
            stem = segment.video if whole else name
            named.add(stem)
            if split is None:
                other.add(name)
            elif stem not in there:
                gone.add(name)
            elif whole and split == "train" and segment.video in tested:
                mixed.add(name)
            elif name in done:
                again.add(name)
            elif not segment.label:
                raise UserError(
                    f"{segment.place}: the label is missing, which official files for testing keep back. Name the "
                    "files that have it in the option annotations of the data source 'kinetics', and set its option "
                    "test to the part that models are tested on."
                )
            else:
                done.add(name)
                folder, suffix = there[stem]
                span = (segment.start, segment.end) if whole else None
                caption = captioned(self.config.caption, segment.label)
                yield segment.label, Clip(name, home / folder / (stem + suffix), caption, split, span=span)
        self._warn_of_parts(home, other)
        gone.warn(home, "their videos are not there", "clips")
        mixed.warn(home, "the test split has a clip of the same video", "training clips")
        again.warn(home, "they are listed twice", "clips")
        for stem, (folder, suffix) in there.items():
            if stem not in named:
                unlisted.add(str(PurePosixPath(folder, stem + suffix)))
        unlisted.warn(home, "no CSV file names them")

    def _warn_of_parts(self, home: Path, other: LeftOut) -> None:
        untested = "test" if self.config.test == "val" else "val"
        other.warn(home, f"they are of the part {untested}, and models are tested on {self.config.test}", "clips")

    def _split(self, part: Part) -> Split | None:
        return "train" if part == "train" else "test" if part == self.config.test else None

    @property
    def _annotations(self) -> list[Path]:
        return [Path(path).expanduser() for path in self.config.annotations]

    def _segments(self) -> Iterator[Segment]:
        for path in self._annotations:
            missing = "Set the option annotations of the data source 'kinetics' to the official CSV files."
            with TextLines(path, "CSV file", missing, returns=True) as lines:
                for number, _, values in csv_rows(lines, []):
                    yield _segment(f"{path}:{number}", values)

    def _wrong(self, home: Path, tested: int) -> UserError:
        names = list(videos(home))
        what = f"{len(names)} videos ({listed(names)})" if names else "no videos"
        if self.config.annotations:
            first = next((segment for segment in self._segments() if segment.part == "train"), None)
            expected = (
                f"{first.name}.mp4, or {first.video}.mp4 for a whole video, anywhere in it"
                if first
                else "a row of the split train in the CSV files"
            )
        else:
            expected = (
                f"train/{EXAMPLE}; for clips that are not in folders of their classes, name the official CSV files in "
                "the option annotations of the data source 'kinetics'"
            )
        return UserError(
            f"{home} has no clips of Kinetics to train on, and {tested} to test on. Expected is {expected}. There are "
            f"{what}; in {home}: {there_is(home)}."
        )


def _files(home: Path) -> dict[str, tuple[str, str]]:
    """Folder and suffix of each video by its name without them; many videos share the two."""
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    there: dict[str, tuple[str, str]] = {}
    for name in videos(home):
        folder, _, file = name.rpartition("/")
        stem, dot, suffix = file.rpartition(".")
        pair = folder, dot + suffix
        there.setdefault(stem, pairs.setdefault(pair, pair))
    return there


def _segment(place: str, values: dict[str, Any]) -> Segment:
    """Check one row."""
    for column in COLUMNS:
        if not values.get(column, "").strip():
            raise UserError(
                f"{place}: the column {column} is missing or empty; the row has {', '.join(values)}. Expected is a CSV "
                f"file of Kinetics, with the columns label, {', '.join(COLUMNS)}."
            )
    video, label = values["youtube_id"].strip(), values.get("label", "").strip()
    if not is_text(video + label):
        raise UserError(f"{place}: the row has characters that are no text.")
    part = PARTS.get(values["split"].strip())
    if part is None:
        raise UserError(f"{place}: the split is {', '.join(PARTS)}, not {values['split']!r}.")
    try:
        start, end = float(values["time_start"]), float(values["time_end"])
    except ValueError:
        start = end = 0.0
    if not 0 <= start < end < float("inf"):
        raise UserError(
            f"{place}: time_start and time_end are seconds, the second after the first, not {values['time_start']!r} "
            f"and {values['time_end']!r}."
        )
    return Segment(place, label, video, start, end, part)


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `kinetics`."""
    return {"kinetics": Kinetics}
