"""What extractors have read from videos is kept: a clip is read once, by whichever metric asks first.

One safetensors file for each extractor and each way in which pixels come to be, with a row for each clip. It says what
it is and has the digest of its rows: a damaged file, or one of something else, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogvid.metrics.extractors import Reading, VideoExtractor
from cogvid.pipeline.stage import Info, alone
from cogvid.pipeline.video_set import VideoSet

log = logging.getLogger("cogvid")
FORMAT = 1


@dataclass
class _Rows:
    """Rows by clip.

    Attributes:
        places: of each clip's row, by its key.
        tensors: the rows (clips, ...) by field of `Reading`; none yet where there is no clip.
    """

    places: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def add(self, keys: Sequence[str], parts: Sequence[dict[str, Tensor]]) -> None:
        """Rows of clips that are not there, in parts that lie behind each other."""
        first = len(self.places)
        self.places |= {key: first + number for number, key in enumerate(keys)}
        for name in parts[0]:
            old = [self.tensors[name]] if name in self.tensors else []
            self.tensors[name] = torch.cat([*old, *(part[name] for part in parts)])


class Readings:
    """The readings of a folder.

    Args:
        folder: that the files are in; made when there is something to keep.
        batch_size: clips that are in memory, and read, at once.
        device: that extractors run on.
    """

    def __init__(self, folder: Path, batch_size: int, device: torch.device | str = "cpu") -> None:
        self.folder, self._batch, self._device = folder, batch_size, torch.device(device)
        self._open: dict[Path, _Rows] = {}

    def of(self, extractor: VideoExtractor, videos: VideoSet, bar: Progress, title: str = "read") -> Reading:
        """What the extractor reads from all clips of a set, in their order; only those not kept are read now.

        Raises:
            UserError: a video cannot be read; what was read before it is kept.
        """
        about = _about(extractor, videos)
        name = "".join(letter if letter.isalnum() else "-" for letter in extractor.name)
        path = self.folder / f"{name}-{_digest(json.dumps(about, sort_keys=True).encode())[:16]}.safetensors"
        if path not in self._open:
            self._open[path] = _load(path, about)
        rows = self._open[path]
        missing = list({key: place for place, key in enumerate(videos.keys) if key not in rows.places}.values())
        if missing:
            self._read(extractor, videos, missing, rows, path, about, bar, title)
        chosen = torch.tensor([rows.places[key] for key in videos.keys], dtype=torch.long)
        return Reading(**{name: tensor[chosen] for name, tensor in rows.tensors.items()})

    def _read(
        self,
        extractor: VideoExtractor,
        videos: VideoSet,
        places: list[int],
        rows: _Rows,
        path: Path,
        about: Info,
        bar: Progress,
        title: str,
    ) -> None:
        keys: list[str] = []
        parts: list[dict[str, Tensor]] = []
        task = bar.add_task(f"{title}, {extractor.name}", total=len(places))
        try:
            for part, batch in videos.batches(places, self._batch):
                reading = extractor.read(batch.to(self._device))
                parts.append({name: value for name, value in reading._asdict().items() if isinstance(value, Tensor)})
                keys += [videos.keys[place] for place in part]
                bar.advance(task, len(part))
        finally:
            if parts:
                rows.add(keys, parts)
                _save(path, about, rows)


def _about(extractor: VideoExtractor, videos: VideoSet) -> Info:
    network = {"extractor": extractor.name, "sha256": extractor.sha256, "resize": extractor.resize}
    return {
        "format": FORMAT,
        **network,
        **extractor.protocol,
        "pixels": dict(videos.pixels),
        "shape": list(videos.shape),
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _rows_digest(tensors: dict[str, Tensor], keys: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(keys).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load(path: Path, about: Info) -> _Rows:
    """What a file keeps; nothing where it is damaged, or not there."""
    if not path.exists():
        return _Rows()
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        keys = json.loads(said["clips"])
        sound = json.loads(said["about"]) == about and said["rows"] == _rows_digest(tensors, keys)
        if sound and tensors and all(len(tensor) == len(keys) for tensor in tensors.values()):
            return _Rows({key: place for place, key in enumerate(keys)}, tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        pass
    log.warning("%s is damaged, or none of the readings that cogvid keeps: it is made anew", path)
    return _Rows()


def _save(path: Path, about: Info, rows: _Rows) -> None:
    """Write the rows, and those that another process has kept meanwhile, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.with_name(f".{path.name}.lock"), path, wait=True):
        others = _load(path, about)
        more = [key for key in others.places if key not in rows.places]
        if more:
            chosen = torch.tensor([others.places[key] for key in more])
            rows.add(more, [{name: tensor[chosen] for name, tensor in others.tensors.items()}])
        keys = list(rows.places)
        tensors = {name: tensor.contiguous() for name, tensor in rows.tensors.items()}
        said = {"about": json.dumps(about), "clips": json.dumps(keys), "rows": _rows_digest(tensors, keys)}
        partial = path.with_name(f".{path.name}.partial")
        save_file(tensors, partial, said)
        partial.replace(path)
