"""From the files of the 2022 release to the folder of a run, which samples as any other."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvid.model.released import TABLES
from cogvid.pipeline.digests import file_digest
from cogvid.pipeline.environment import environment
from cogvid.pipeline.new_folder import new_folder
from cogvid.pipeline.released_files import CLUSTERS as CLUSTER_FILE
from cogvid.pipeline.released_files import TorchFile, find_released
from cogvid.pipeline.released_parts import ReleasedParts, Shapes
from cogvid.pipeline.stage import LOCK, Info, StageStore, write_json, write_whole
from cogvid.pipeline.tensor_file import Later, write_tensors
from cogvid.progress import stage_progress

# Of a run's folder: what its files were called in the release.
RELEASED = "released.json"
# Of a stage's folder: tensors, or the rows of them, that the models here have no place for, by their released names.
UNUSED = "unused.safetensors"
MODEL, CLUSTERS = "model.safetensors", "clusters.safetensors"


@dataclass(frozen=True)
class Converted:
    """What a conversion found.

    Attributes:
        parameters: of the model of each stage.
        other_base: the first tensor in which the image models that the two stages are built on differ; None if they
            are equal in all.
    """

    parameters: dict[str, int]
    other_base: str | None


def convert_released(folder: Path, out: Path, heads: int | None = None) -> Converted:
    """Make a run of the release's files, tensor by tensor and in the types that they have.

    Args:
        folder: with the files somewhere below it.
        out: the run's folder; it is there when all of it is.
        heads: attention heads; None for one for each 64 channels, as the release has them.

    Raises:
        UserError: `out` is there already, files are missing, are something else, or do not fit each other.
    """
    files = find_released(folder)
    parts = ReleasedParts(files, heads)
    first, second, image = (file.path.stat().st_size for file in (*parts.stages, parts.image))
    with new_folder(out, 2 * first + second + image) as run:
        with stage_progress() as progress:
            tensors = len(parts.image) + sum(len(shapes) for shapes in parts.models.values())
            task = progress.add_task("convert", total=tensors)
            converted = _Writer(parts, StageStore(run / "stages"), lambda: progress.advance(task)).all()
        write_json(run / RELEASED, files.described(folder))
        write_whole(run / "config.yaml", parts.resolved.to_yaml().encode())
        write_json(run / "plugins.json", {"components": parts.lab.used()})
        write_json(run / "environment.json", environment())
    return converted


class _Writer:
    """Writes the stages of a converted run.

    Args:
        parts: what they are made of.
        store: where they go.
        advance: called for each tensor.
    """

    def __init__(self, parts: ReleasedParts, store: StageStore, advance: Callable[[], None]) -> None:
        self.parts, self.store, self.advance = parts, store, advance

    def all(self) -> Converted:
        """All stages."""
        first, second = self.parts.stages
        self._finish("text_tokenizer", self.parts.files.text_model, self._text)
        parameters = {"tokenizer": self._finish("tokenizer", self.parts.image.path, self._tokenizer)}
        read = dict[str, _Digests]()
        for name, file in (("image_base", first), ("sequential", first), ("interpolation", second)):
            digests = read[name] = _Digests()
            parameters[name] = self._finish(name, file.path, partial(self._transformer, name, file, digests))
        names = [self.parts.names[ours] for ours in self.parts.models["image_base"]]
        other = (name for name in names if read["sequential"].of(name) != read["interpolation"].of(name))
        return Converted(parameters, next(other, None))

    def _finish(self, name: str, source: Path, work: Callable[[Path], Info]) -> int:
        stage = self.store.finish(name, {"stage": name, "released": file_digest(source)}, work)
        (stage.folder / LOCK).unlink()
        stage.folder.rename(self.store.root / name)
        return int(stage.info["parameters"])

    def _text(self, folder: Path) -> Info:
        """Where the experiment says it is; its bytes are kept as they are."""
        name = Path(self.parts.lab.config.text_tokenizer.options["model"]).name
        shutil.copyfile(self.parts.files.text_model, folder / name)
        return {"vocabulary": self.parts.text.vocabulary, "parameters": 0}

    def _tokenizer(self, folder: Path) -> Info:
        image, own = self.parts.image, self.parts.tokenizer
        write_tensors(folder / MODEL, {name: self._later(image, name) for name in own})
        write_tensors(folder / UNUSED, {name: self._later(image, name) for name in image if name not in own})
        write_tensors(folder / CLUSTERS, {"clusters": self.parts.clusters})
        # Of a few bytes that the array alone does not tell, the way back needs them.
        shutil.copyfile(self.parts.files.clusters, folder / CLUSTER_FILE)
        return {"steps": 0, "parameters": _numbers(own)}

    def _transformer(self, name: str, file: TorchFile, digests: _Digests, folder: Path) -> Info:
        names, shapes = self.parts.names, self.parts.models[name]
        used = {ours: self._later(file, names[ours], digests, 0, shape[0]) for ours, shape in shapes.items()}
        write_tensors(folder / MODEL, used)
        if name != "image_base":  # of which nothing is read again
            rest = [(names[ours], shape[0]) for ours, shape in shapes.items() if ours in TABLES]
            write_tensors(
                folder / UNUSED,
                {n: self._later(file, n, digests, rows) for n, rows in rest if file.shapes[n][0] > rows},
            )
        return {"steps": 0, "parameters": _numbers(shapes)}

    def _later(
        self, file: TorchFile, name: str, digests: _Digests | None = None, start: int = 0, end: int | None = None
    ) -> Later:
        """Rows of a tensor, read when they are written."""

        def make() -> Tensor:
            self.advance()
            tensor = file[name][start:end]
            if digests is not None:
                digests.add(name, tensor)
            return tensor

        whole = file.shapes[name]
        rows = len(range(whole[0])[start:end])
        return Later((rows, *whole[1:]), file.types[name], make)


class _Digests:
    """Digests of tensors, read in parts."""

    def __init__(self) -> None:
        self._of = dict[str, Any]()

    def add(self, name: str, tensor: Tensor) -> None:
        """The next part of a tensor."""
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
        self._of.setdefault(name, hashlib.blake2b()).update(content)

    def of(self, name: str) -> bytes:
        """That of a tensor's parts together."""
        digest: bytes = self._of[name].digest()
        return digest


def _numbers(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())
