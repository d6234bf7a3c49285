"""Data source `ucf101`: the class folders of UCF-101 with its official lists for training and testing.

K. Soomro, A. Zamir, M. Shah: UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild (2012).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from omegaconf import MISSING

from cogvid import Clip, DataSource, UserError, hookimpl
from cogvid.config.ranges import file_name, one_of, option
from cogvid.interfaces.data_source import Progress, Split
from cogvid_plugins.data.lines import TextLines
from cogvid_plugins.data.trees import (
    SPLITS,
    LeftOut,
    caption_pattern,
    captioned,
    existing_folder,
    file_digest,
    file_state,
    fingerprint,
    listed,
    log_classes,
    report,
    there_is,
    videos,
    words,
)

LISTS = "ucfTrainTestlist"
EXAMPLE = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"


class Ucf101(DataSource):
    """UCF-101 as it is unpacked: a folder for each class, and the lists of one of its three folds.

    `trainlist01.txt` has lines such as `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, `testlist01.txt` the same
    without the number of the class. Videos are found by their names without regard to case, which differs between
    copies of the set (HandstandPushups), and to the suffix, for those who have encoded it anew.
    """

    @dataclass
    class Config:
        path: str = option(MISSING, file_name())  # the folder of the class folders; relative to the current directory
        # the folder of the lists; null: ucfTrainTestlist in the folder of the class folders, or beside it
        splits: str | None = option(None, file_name())
        fold: int = option(1, one_of(1, 2, 3))
        caption: str = option("{label}", caption_pattern())  # {label} is the class in words: apply eye makeup

    def fingerprint(self) -> str:
        """The lists, and names, sizes and times of the videos."""
        home, lists = self._folders()
        read = [file_digest(path) for path in self._files(lists) if path.is_file()]
        return fingerprint([*read, *((name, file_state(home / name)) for name in videos(home))])

    def clips(self, folder: Path, seed: int, progress: Progress) -> Iterator[Clip]:
        """The clips that are both in the tree and in a list; nothing is written."""
        home, lists = self._folders()
        wanted, there = self._read(lists), {_key(name): name for name in videos(home)}
        found = {name: split for name, split in wanted.items() if _key(name) in there}
        if "train" not in found.values():
            raise self._wrong(home, lists, wanted, list(there.values()))
        gone, unlisted, fold = LeftOut(), LeftOut(), f"of fold {self.config.fold}"
        for name in wanted:
            if name not in found:
                gone.add(name)
        keys = set(map(_key, wanted))
        for key, name in there.items():
            if key not in keys:
                unlisted.add(name)
        gone.warn(home, f"the lists {fold} name them, but they are not there")
        unlisted.warn(home, f"no list {fold} has them")
        tested = list(found.values()).count("test")
        log_classes("ucf101", len(set(map(_label, found))), len(found) - tested, tested)
        for number, (name, split) in enumerate(found.items(), start=1):
            yield Clip(name, home / there[_key(name)], captioned(self.config.caption, words(_label(name))), split)
            report(progress, number, len(found))

    def _folders(self) -> tuple[Path, Path]:
        home = existing_folder(self.config.path, "ucf101")
        if self.config.splits is not None:
            lists = Path(self.config.splits).expanduser()
            if lists.is_dir():
                return home, lists
            raise UserError(f"The folder {lists} of the lists of UCF-101 does not exist. {self._expected}")
        for lists in (home / LISTS, home.absolute().parent / LISTS):
            if lists.is_dir():
                return home, lists
        raise UserError(
            f"The lists of UCF-101 are not there: no folder {LISTS} in {home} or beside it. {self._expected} In "
            f"{home}: {there_is(home)}."
        )

    @property
    def _expected(self) -> str:
        return (
            "Unpack UCF101TrainTestSplits-RecognitionTask.zip, and set the option splits of the data source 'ucf101' "
            f"to the folder that has trainlist0{self.config.fold}.txt."
        )

    def _files(self, lists: Path) -> list[Path]:
        return [*(lists / f"{split}list0{self.config.fold}.txt" for split in SPLITS), lists / "classInd.txt"]

    def _read(self, lists: Path) -> dict[str, Split]:
        """The split of each video of the lists, in their order."""
        *files, classes = self._files(lists)
        numbers: dict[str, str] = {}
        if classes.is_file():
            with TextLines(classes, "list of classes") as lines:
                for place, number, name in _pairs(lines, classes):
                    if not number.isdecimal():
                        raise UserError(f"{place}: expected is a line such as '1 ApplyEyeMakeup'.")
                    numbers[name] = number
        found: dict[str, Split] = {}
        for path, split in zip(files, SPLITS, strict=True):
            if not path.is_file():
                raise UserError(
                    f"The list {path} of UCF-101 does not exist. {self._expected} In {lists}: {there_is(lists)}."
                )
            with TextLines(path, "list") as lines:
                for place, name, number in _pairs(lines, path):
                    _check(place, name, number, numbers)
                    if name in found:
                        raise UserError(
                            f"{place}: {name} is listed already, for {found[name]}. A video is in one list, once."
                        )
                    found[name] = split
        return found

    def _wrong(self, home: Path, lists: Path, wanted: dict[str, Split], names: list[str]) -> UserError:
        ends = {_key(name) for name in wanted}
        above = {str(PurePosixPath(*PurePosixPath(name).parts[:-2])) for name in names if _end(name) in ends}
        hint = f" The class folders seem to lie in {home / min(above)}: set the option path to it." if above else ""
        what = f"{len(names)} videos ({listed(names)})" if names else "no videos"
        return UserError(
            f"{home} is no tree of UCF-101 with training videos: it has none of the {len(wanted)} that the lists in "
            f"{lists} name for training, such as {next(iter(wanted), EXAMPLE)}. Expected is a folder for each class. "
            f"There are {what}; in {home}: {there_is(home)}.{hint}"
        )


def _pairs(lines: TextLines, path: Path) -> Iterator[tuple[str, str, str]]:
    """The place, and the one or two words, of each line that is not empty."""
    for number, line in enumerate(lines, start=1):
        parts = line.split()
        if len(parts) > 2:
            raise UserError(f"{path}:{number}: expected is a line such as '{EXAMPLE} 1', not {line.strip()[:80]!r}.")
        if parts:
            yield f"{path}:{number}", parts[0], parts[1] if len(parts) > 1 else ""


def _check(place: str, name: str, number: str, numbers: dict[str, str]) -> None:
    if name.count("/") != 1 or name.startswith("/"):
        raise UserError(f"{place}: expected is a line such as '{EXAMPLE} 1', not {name[:80]!r}.")
    label = _label(name)
    if numbers and label not in numbers:
        raise UserError(f"{place}: {label} is none of the {len(numbers)} classes in classInd.txt.")
    if number and numbers and number != numbers[label]:
        raise UserError(f"{place}: {label} is class {numbers[label]} in classInd.txt, not {number}.")


def _label(name: str) -> str:
    return name.partition("/")[0]


def _key(name: str) -> str:
    """What two spellings of a video's name share."""
    return name.rpartition(".")[0].lower()


def _end(name: str) -> str:
    return _key("/".join(PurePosixPath(name).parts[-2:]))


@hookimpl
def register_data_sources() -> dict[str, type]:
    """The data source `ucf101`."""
    return {"ucf101": Ucf101}
