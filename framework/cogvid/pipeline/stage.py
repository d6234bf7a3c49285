"""Finished work is never done twice: a stage is a folder named by the hash of everything it depends on."""

from __future__ import annotations

import dataclasses
import fcntl
import gc
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from cogvid.errors import UserError
from cogvid.pipeline.code import stage_code
from cogvid.pipeline.digests import first_damaged, outputs
from cogvid.pipeline.environment import environment
from cogvid.training import job

Info = dict[str, Any]
log = logging.getLogger("cogvid")
# What a finished stage has, and an unfinished one has not.
DONE = "stage.json"


# The lock of a stage or a run, a file in its folder.
LOCK = ".lock"


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its folder, its key, and what `stage.json` says."""

    folder: Path
    key: str
    info: Info

    def check(self) -> None:
        """Hold the stage's files to what its work left.

        Raises:
            UserError: one of them is missing or another; the message says what to remove.
        """
        damaged = first_damaged(self.folder, self.info.get("outputs", {}))
        if damaged:
            raise UserError(f"{damaged}. {_remove(self.folder)}")


class StageStore:
    """The stages of all runs below one folder.

    Args:
        root: the folder; created when needed.
        wait: for another job that is at work on a wanted stage.
        begins: told the name and the folder of a stage that is not finished, before it is waited for or made.
    """

    def __init__(self, root: Path, wait: bool = True, begins: Callable[[str, Path], None] | None = None) -> None:
        self.root, self.wait, self.begins = root, wait, begins

    def finish(
        self,
        name: str,
        depends: Info,
        work: Callable[[Path], Info],
        *,
        together: bool = False,
        scratch: Sequence[str] = (),
    ) -> StageResult:
        """The finished stage `name`, doing `work(folder)` unless an earlier run did.

        Of a job's processes the leader decides which stage this is, owns its folder and does the work, while the
        others wait.

        Args:
            name: of the stage.
            depends: everything that decides the result, beside the core's code and version: settings, sources of
                plugins, keys of earlier stages.
            work: makes the result in the folder, or goes on with what an interrupted run left there.
            together: all processes do the work; what it gives counts in the leader.
            scratch: patterns of files and folders, below the stage's, that an interrupted work goes on with; they are
                removed when the stage is said to be finished, and not before.

        Raises:
            UserError: another job is at work on this very stage and is not waited for, or what the stage left is
                damaged.
        """
        folder, key, plain = job.once(lambda: self._place(name, depends))
        if not job.once((folder / DONE).exists):
            all_work = work if together else lambda folder: job.once(lambda: work(folder))
            self._finish(name, key, folder, plain, all_work, scratch)
            if together:  # what was trained hangs on itself, optimiser and all: the next stage needs the memory
                gc.collect()

        def finished() -> StageResult:
            stage = read_stage(folder, name)
            if stage.key != key:
                raise UserError(f"{folder / DONE} is that of another stage, {stage.key}. {_remove(folder)}")
            stage.check()
            if _matching(folder, scratch):  # killed before it was removed; or its owner is about to remove it
                with suppress(UserError, OSError), alone(folder / LOCK, folder, wait=False):
                    _clear(folder, scratch)
            return stage

        return job.once(finished)

    def part(self, name: str, depends: Info, part: str, work: Callable[[Path], None]) -> Path:
        """Do a part of a stage's work, beside other processes that do other parts; `finish` completes it.

        Args:
            name, depends: as for `finish`.
            part: a name of this part.
            work: does it in the folder; not called where the stage is finished.

        Returns:
            The stage's folder.

        Raises:
            UserError: another process is at work on this part, or on the whole, and is not waited for.
        """
        folder, _, _ = self._place(name, depends)
        if (folder / DONE).exists():
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / part_lock(part)
        with alone(folder / LOCK, folder, self.wait, among_parts=True), alone(own, folder, self.wait):
            if not (folder / DONE).exists():
                work(folder)
        return folder

    def _place(self, name: str, depends: Info) -> tuple[Path, str, Info]:
        """A stage's folder, its key, and all that decides it."""
        plain = as_plain({**depends, "sources": stage_code(name), "cogvid": version("cogvid")})
        key = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]
        return self.root / f"{name}-{key}", key, plain

    def _finish(
        self, name: str, key: str, folder: Path, plain: Info, work: Callable[[Path], Info], scratch: Sequence[str]
    ) -> None:
        """All processes of the job come here, and all do `work`."""
        if self.begins is not None and job.leads():
            self.begins(name, folder)
        with owned(folder, self.wait):
            if job.once((folder / DONE).exists):
                return
            resumed = job.once(lambda: self._begin(name, folder, plain))
            started = time.perf_counter()
            info = work(folder)
            # After an interruption the seconds are those of the last part alone.
            seconds = round(time.perf_counter() - started, 2)
            about = {"name": name, "key": key, "seconds": seconds, "resumed": resumed}
            job.once(lambda: _end(folder, about | info, plain, scratch))

    def _begin(self, name: str, folder: Path, plain: Info) -> bool:
        """Whether an interrupted run has been at this stage; what it half wrote goes."""
        resumed = any(path.name != LOCK for path in folder.iterdir())
        changed = [] if resumed else self._changed(name, plain)
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            log.info("%s: made again, because %s%s changed", name, ", ".join(changed[:3]), more)
        for partial in list(folder.rglob(".*.partial")):
            delete(partial)
        return resumed

    def earlier(self, name: str) -> Iterator[StageResult]:
        """Finished stages of this name that the code as it is now has made, the newest first."""
        for stage in self._finished(name):
            depends = stage.info.get("depends", {})
            if depends.get("sources") == stage_code(name) and depends.get("cogvid") == version("cogvid"):
                yield stage

    def _finished(self, name: str) -> Iterator[StageResult]:
        done = list(self.root.glob(f"{name}-*/{DONE}"))
        for path in sorted(done, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            with suppress(UserError):
                yield read_stage(path.parent, name)

    def _changed(self, name: str, plain: Info) -> list[str]:
        """The files that differ from those of the newest stage of this name which all else is equal to."""
        for stage in self._finished(name):
            differences = list(_differences(plain, stage.info.get("depends")))
            if all(place[-2:-1] in (("sources",), ("files",)) for place in differences):
                return sorted({place[-1] for place in differences})
        return []


def _end(folder: Path, about: Info, plain: Info, scratch: Sequence[str]) -> None:
    """Say that a stage is finished, and then remove what an interrupted one would have gone on with."""
    for lock in list(folder.glob(part_lock("*"))):
        lock.unlink()
    left = outputs(folder, without=_matching(folder, scratch))
    write_json(folder / DONE, about | {"outputs": left, "environment": environment(), "depends": plain})
    _clear(folder, scratch)


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _clear(folder: Path, scratch: Sequence[str]) -> None:
    for path in _matching(folder, scratch):
        delete(path)


def delete(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where it is gone."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Unfinished(Exception):
    """A stage that is not there, and is not to be made."""


class FinishedStages(StageStore):
    """Stages that are taken if they are there, and not made: `finish` raises `Unfinished` where one is not."""

    def _finish(self, name: str, *_: Any) -> None:
        raise Unfinished(name)


def read_stage(folder: Path, name: str) -> StageResult:
    """The finished stage in a folder.

    Raises:
        UserError: its `stage.json` is damaged, or that of a stage of another name.
    """
    done = folder / DONE
    try:
        info = json.loads(done.read_bytes())
        named, key = info["name"], info["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{done} is damaged: it does not say which stage this is. {_remove(folder)}") from error
    if named != name:
        raise UserError(f"{done} is that of another stage, {named}. {_remove(folder)}")
    return StageResult(folder, key, info)


def _remove(folder: Path) -> str:
    return f"Remove the folder {folder.resolve()}: the run's `cogvid run` command makes it again."


def _differences(one: Any, other: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys, from the outermost inwards, at which two plain values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from _differences(one.get(key), other.get(key), (*place, key))
    elif one != other:
        yield place


def part_lock(part: str) -> str:
    """The name of the lock of a part of a stage."""
    return f".part-{part}{LOCK}"


@contextmanager
def owned(folder: Path, wait: bool) -> Iterator[None]:
    """Make a folder this job's, for all of its processes; made when needed.

    Raises:
        UserError: another job is at work there, and is not waited for.
    """
    with ExitStack() as stack:

        def lock() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone(folder / LOCK, folder, wait))

        job.once(lock)
        yield


@contextmanager
def alone(lock: Path, path: Path, wait: bool, among_parts: bool = False) -> Iterator[None]:
    """Keep other processes from the same work.

    Args:
        lock: a file that stands for it, made when needed.
        path: what the work is on, for messages.
        wait: until another process that is at it has finished.
        among_parts: let others in that say so, too, and keep out those that do not.

    Raises:
        UserError: another process is at it, and is not waited for.
    """
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(lock.open("a+"))
            _lock(file, path, wait, fcntl.LOCK_SH if among_parts else fcntl.LOCK_EX)
            # Who waited may hold the lock of a folder that was removed meanwhile.
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(file.fileno())):
                break
            lock.parent.mkdir(parents=True, exist_ok=True)
        if lock.name == LOCK:
            lock.write_text(f"{os.getpid()} {platform.node()}")
        yield


def _lock(file: IO[str], path: Path, wait: bool, how: int) -> None:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner, _, host = file.read().partition(" ") if Path(file.name).name == LOCK else ("", "", "")
        who = f"another cogvid process ({owner} on {host})" if host else "another cogvid process"
        # A process that was started by the one at work must not wait for it: that one may wait for this.
        if not wait or owner == str(os.getppid()):
            raise UserError(
                f"{path} is being worked on by {who}. Stop it, or run the same command without --no-wait, which waits "
                "until it has finished."
            ) from None
        log.warning("waiting for %s, which is at work on %s", who, path)
        fcntl.flock(file, how)


def as_plain(value: Any) -> Any:
    """Dataclasses, enums and paths to what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): as_plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(v) for v in value]
    return value.name if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is whole or not there."""
    write_whole(path, (json.dumps(value, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there: under a hidden name until it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
