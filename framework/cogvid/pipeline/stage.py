"""Finished work is never done twice: a stage is a folder named by the hash of everything it depends on."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from safetensors.torch import save
from torch import Tensor

from cogvid.errors import UserError

Info = dict[str, Any]


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its folder, its key, and what `stage.json` says."""

    folder: Path
    key: str
    info: Info


class StageStore:
    """The stages of all runs below one folder.

    Args:
        root: the folder; created when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def finish(self, name: str, depends: Info, work: Callable[[Path], Info]) -> StageResult:
        """The finished stage `name`, doing `work(folder)` unless an earlier run did.

        Args:
            name: of the stage.
            depends: everything that decides the result: settings, versions, keys of earlier stages.
            work: makes the result in the folder, or goes on with what an interrupted run left there.

        Raises:
            UserError: another process is at work on this very stage.
        """
        plain = as_plain({**depends, "cogvid": version("cogvid")})
        key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.root / f"{name}-{key}"
        done = folder / "stage.json"
        if not done.exists():
            resumed = folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("w") as lock, alone(lock, folder, "stop it; then run the same command again"):
                started = time.perf_counter()
                info = work(folder)
                # After an interruption the seconds are those of the last part alone.
                seconds = round(time.perf_counter() - started, 2)
                write_json(
                    done,
                    {
                        "name": name,
                        "key": key,
                        "seconds": seconds,
                        "resumed": resumed,
                        **info,
                        "depends": plain,
                    },
                )
        return StageResult(folder, key, json.loads(done.read_text()))


@contextmanager
def alone(lock: IO[str], path: Path, otherwise: str) -> Iterator[None]:
    """Keep other processes from the same work.

    Args:
        lock: an open file that stands for it.
        path: what the work is on, for the message.
        otherwise: what a user can do besides waiting.

    Raises:
        UserError: another process is at it.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path} is being worked on by another cogvid process. Wait until it has finished, or {otherwise}."
        ) from None
    yield


def as_plain(value: Any) -> Any:
    """Dataclasses, enums and paths to what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(v) for v in value]
    return value.name if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file that is whole or not there."""
    write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is whole or not there."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there: under a hidden name until it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
