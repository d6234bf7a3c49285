"""Checkpoints on the disk: folders of safetensors shards with their SHA-256, whole or not there, two of them kept.

All processes of a training write and read together, each its share. A checkpoint says nothing of how many they were:
torch.distributed.checkpoint puts whole tensors, and shards of them, together again as the reading processes need them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cogvid.errors import SaidElsewhere
from cogvid.training import job

log = logging.getLogger("cogvid")
# In a stage's folder, until the stage is finished.
CHECKPOINTS = "checkpoints"
_STATE = "state.json"
_KEPT = 2
# A file is put together in memory before it is written.
_FILE_BYTES = 2**30


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files are those that were written.

    Attributes:
        path: its folder.
        step: that was the last before it.
        state: what was to be kept beside the tensors, as JSON knows it.
    """

    path: Path
    step: int
    state: dict[str, Any]


def write(stage: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint, and remove those before the one before it.

    Args:
        stage: the stage's folder.
        step: the last that is done.
        tensors: by name; those without shards are the same in every process.
        state: what is to be kept beside them, as JSON knows it.

    Raises:
        OSError: the disk is full, or cannot be written; the checkpoints before are as they were.
    """
    path = stage / CHECKPOINTS / f"step-{step:08d}"
    partial = path.with_name(f".{path.name}.partial")

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def end() -> None:
        _write_state(partial / _STATE, {"stage": stage.name, "step": step, "state": state, "files": digests})
        os.replace(partial, path)
        _remove(*_found(stage)[_KEPT:])

    try:
        job.once(begin)
        with _own_errors(partial):
            writer = HuggingFaceStorageWriter(str(partial), _files(tensors), save_distributed=True)
            contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save(contiguous, storage_writer=writer, no_dist=job.processes() == 1)
        digests = _digests(partial, job.once(lambda: _shards(partial)))
        job.once(end)
    except BaseException:
        if job.leads():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def newest(stage: Path, title: str) -> Saved | None:
    """The newest checkpoint in a stage's folder that is whole; None if there is none. Damaged ones are removed.

    Args:
        stage: the stage's folder.
        title: the stage's name, for what is said of a damaged checkpoint.
    """
    damaged, saved = [], None
    for path in job.once(lambda: _found(stage)):
        saved = _whole(stage, path)
        if saved is not None:
            break
        damaged.append(path)
    if damaged:
        which = " and ".join(str(path) for path in damaged)
        verb = "is" if len(damaged) == 1 else "are"
        then = f"goes on from step {saved.step}" if saved else "starts at its first step again"
        log.warning("%s %s damaged: %s %s", which, verb, title, then)
        job.once(lambda: _remove(*damaged))
    return saved


def names(path: Path) -> list[str]:
    """Of the tensors in a checkpoint."""
    return list(HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)


def read(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read tensors of a checkpoint in place, by name."""
    with _own_errors(path):
        reader = HuggingFaceStorageReader(str(path))
        load({**tensors}, storage_reader=reader, no_dist=job.processes() == 1)


def _remove(*paths: Path) -> None:
    """Remove folders of which none must be found half removed."""
    for path in paths:
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        os.replace(path, partial)
        shutil.rmtree(partial)


def _found(stage: Path) -> list[Path]:
    """Folders of checkpoints, the newest first."""
    return sorted((stage / CHECKPOINTS).glob("step-*"), reverse=True)


def _shards(path: Path) -> list[str]:
    return sorted(file.name for file in path.glob("*.safetensors"))


def _whole(stage: Path, path: Path) -> Saved | None:
    """A checkpoint that this stage wrote, if it is as it was written."""
    about = job.once(lambda: _read_state(path / _STATE))
    if about is None or about["stage"] != stage.name or path.name != f"step-{about['step']:08d}":
        return None
    files = about["files"]
    same = job.once(lambda: _shards(path) == sorted(files)) and _digests(path, sorted(files)) == files
    return Saved(path, about["step"], about["state"]) if same else None


def _digests(path: Path, files: list[str]) -> dict[str, str]:
    """SHA-256 of files in a folder, of which each process reads its share; those that cannot be read are left out."""
    own = {}
    for name in files[job.rank() :: job.processes()]:
        with suppress(OSError), (path / name).open("rb") as file:
            own[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {name: digest for part in job.gathered(own) for name, digest in part.items()}


def _write_state(path: Path, about: Mapping[str, Any]) -> None:
    text = json.dumps(about, sort_keys=True)
    with path.open("w") as file:
        file.write(json.dumps({"about": about, "sha256": hashlib.sha256(text.encode()).hexdigest()}, indent=1))
        file.flush()
        os.fsync(file.fileno())


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
        about: dict[str, Any] = content["about"]
        text = json.dumps(about, sort_keys=True)
        return about if hashlib.sha256(text.encode()).hexdigest() == content["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The number, from 1, of the file that each tensor is written to."""
    numbers, size = {}, 0
    for name, tensor in tensors.items():
        numbers[name] = 1 + size // _FILE_BYTES
        size += tensor.numel() * tensor.dtype.itemsize
    # Without gaps, where one tensor fills more than a file.
    order = {number: place for place, number in enumerate(dict.fromkeys(numbers.values()), start=1)}
    return {name: order[number] for name, number in numbers.items()}


@contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    """Raise what went wrong in one of the processes itself, in the leader; `SaidElsewhere` in the others."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as failure:
        error = next(cause for cause, _ in failure.failures.values())
        if not job.leads():
            raise SaidElsewhere from failure
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise error from None
