"""Videos wherever they lie, without captions: a file, a tar shard, a folder of both."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cogvid.data.files import VIDEO_SUFFIXES
from cogvid.interfaces.data_source import Clip, Member

# Of these only uncompressed ones can be read where they lie; the others are answered so.
_SHARDS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass
class Videos:
    """The videos of a path, as clips of no caption, in the order of their names.

    Attributes:
        path: a file, or a folder, with all its subfolders.
        others: files passed over, because of their names, by suffix; counted while the clips are listed.
        damaged: shards that cannot be read to their end, and why; the same.
    """

    path: Path
    others: Counter[str] = field(default_factory=Counter)
    damaged: list[tuple[Path, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[Clip]:
        if not self.path.is_dir():
            yield from self._of(self.path, self.path.name)
            return
        for folder, folders, names in os.walk(self.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(folder, name)
                # What is neither a file nor a link to nothing may be a pipe, which would be waited for.
                if name.startswith(".") or not (file.is_file() or not file.exists()):
                    continue
                if _is_shard(file) or file.suffix.lower() in VIDEO_SUFFIXES:
                    yield from self._of(file, file.relative_to(self.path).as_posix())
                else:
                    self.others[_ending(file)] += 1

    def _of(self, file: Path, name: str) -> Iterator[Clip]:
        if not _is_shard(file):
            yield Clip(name, file, "", "train")
            return
        try:
            with tarfile.open(file, "r:") as shard:  # without the colon it would unpack a compressed one
                for info in shard:
                    inside = Path(info.name)
                    if not info.isreg() or info.issparse() or inside.name.startswith("."):
                        continue
                    if inside.suffix.lower() in VIDEO_SUFFIXES:
                        member = Member(info.name, info.offset_data, info.size)
                        yield Clip(f"{name}/{info.name}", file, "", "train", member=member)
                    else:
                        self.others[_ending(inside)] += 1
        except (OSError, tarfile.TarError) as error:
            cause = getattr(error, "strerror", None) or error
            self.damaged.append((file, f"The shard {file} cannot be read: {cause}. A shard is an uncompressed tar."))


def _is_shard(file: Path) -> bool:
    return file.name.lower().endswith(_SHARDS)


def _ending(file: Path) -> str:
    return file.suffix.lower() or "no suffix"
