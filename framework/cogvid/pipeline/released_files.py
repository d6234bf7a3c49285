"""The files of the 2022 release: where they are in a folder, and their tensors, few of them in memory at a time."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvid.errors import UserError

IMAGE_TOKENIZER, TEXT_MODEL, CLUSTERS = "ice_image.pt", "ice_text.model", "cluster_label2.npy"
STAGE_FILE, LATEST = "mp_rank_00_model_states.pt", "latest"
# Bytes of memory-mapped tensors after which what was read is given back.
_HELD = 128 << 20
# States of random numbers that a training leaves beside the weights are numpy's; by the names of both its versions.
_NUMPY: list[Any] = [
    *((np.array(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
]


@dataclass(frozen=True)
class ReleasedStage:
    """A transformer of the release, in the layout of its training library.

    Attributes:
        weights: the file.
        latest: the file that names the iteration, which is the folder that `weights` is in.
    """

    weights: Path
    latest: Path


@dataclass(frozen=True)
class ReleasedFolder:
    """The release's files.

    Attributes:
        stages: 1, the sequential stage, and 2, interpolation.
        image_tokenizer, text_model, clusters: their files.
    """

    stages: tuple[ReleasedStage, ReleasedStage]
    image_tokenizer: Path
    text_model: Path
    clusters: Path

    def described(self, folder: Path) -> dict[str, Any]:
        """What the files are called in a folder, as plain values."""

        def name(path: Path) -> str:
            return path.relative_to(folder).as_posix()

        return {
            "stages": [
                {"weights": name(stage.weights), "latest": name(stage.latest), "iteration": stage.latest.read_text()}
                for stage in self.stages
            ],
            **{other: name(getattr(self, other)) for other in ("image_tokenizer", "text_model", "clusters")},
        }


def find_released(folder: Path) -> ReleasedFolder:
    """The release's files, wherever they are below a folder; stages by the names of the folders they are in.

    Raises:
        UserError: some are missing or there twice; the message lists all of them.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name the one that has the release's files.")
    wrong: list[str] = []

    def one(found: list[Path], what: str) -> Path:
        if len(found) != 1:
            places = " and ".join(str(path) for path in found)
            wrong.append(f"{what} is there {len(found)} times, {places}" if found else f"{what} is missing")
        return found[0] if found else Path()

    def stage(number: int) -> ReleasedStage:
        below = re.compile(rf"(?i)stage[-_ ]?{number}(?!\d)")
        inside = [
            path
            for path in sorted(folder.rglob("*"))
            if path.name in (STAGE_FILE, LATEST) and below.search(str(path.relative_to(folder).parent))
        ]
        what = f"of stage {number}, in a folder with stage{number} in its name,"
        latest = one([path for path in inside if path.name == LATEST], f"{LATEST} {what}")
        iteration = latest.read_text().strip() if latest.is_file() else "*"
        files = [path for path in inside if path.match(f"{iteration}/{STAGE_FILE}")]
        return ReleasedStage(one(files, f"{iteration}/{STAGE_FILE} {what}"), latest)

    stages = stage(1), stage(2)
    others = [one(sorted(folder.rglob(name)), name) for name in (IMAGE_TOKENIZER, TEXT_MODEL, CLUSTERS)]
    if wrong:
        raise UserError(f"{folder} is not the 2022 release: {'; '.join(wrong)}.")
    return ReleasedFolder(stages, *others)


class TorchFile(Mapping[str, Tensor]):
    """The tensors of a file that `torch.save` wrote, alone or under the key `module`, memory-mapped.

    What was read of them is given back to the system after some while, so that of a large file little is in memory;
    a tensor that is kept keeps what it has read. Nothing in the file is executed.

    Args:
        path: the file.

    Attributes:
        shapes: of the tensors, by name.
        types: their dtypes.

    Raises:
        UserError: it is no such file, or holds other objects than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors = self._open()
        self._read = 0
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.types = {name: tensor.dtype for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        if self._read > _HELD:
            self._tensors, self._read = {}, 0
            self._tensors = self._open()
        tensor = self._tensors[name]
        self._read += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _open(self) -> dict[str, Tensor]:
        try:
            with torch.serialization.safe_globals(_NUMPY):
                # Files of torch before 1.6 are no archives, and cannot be mapped.
                mapped = zipfile.is_zipfile(self.path)
                content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{self.path} holds other things than tensors, or is damaged. What is no tensor could run code when it "
                "is read, so that nothing of the file is."
            ) from error
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        except Exception as error:  # of a file of other bytes torch raises anything
            raise UserError(f"{self.path} is no file of torch.save, or is damaged: {str(error)[:200]}") from error
        tensors = content.get("module", content) if isinstance(content, dict) else content
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise UserError(f"{self.path} has no tensors by name, neither alone nor under the key module.")
        return dict(tensors)
