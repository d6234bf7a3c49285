"""The TensorBoard files of a stage that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter


def drop_events(folder: Path, after: int) -> None:
    """Drop what the event files in a folder say of steps behind `after`, and what a killed process half wrote."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept = [event for event in _events(path) if Event.FromString(event).step <= after]
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            writer = RecordWriter(file)
            for event in kept:
                writer.write(event)
        partial.replace(path)


def _events(path: Path) -> Iterator[bytes]:
    if path.stat().st_size:
        try:
            yield from RawEventFileLoader(str(path)).Load()
        except Exception:  # one of several, by where the damage is: the events before it are kept
            return
