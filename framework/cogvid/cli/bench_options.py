"""What all benchmarks are told, and what they write."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cogvid.errors import UserError


class Device(StrEnum):
    """Where a benchmark runs."""

    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """Of queries, keys and values."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


# What all benchmarks can be told.
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[attention=NAME] [key=value]...", help="A pattern; the standard cases without one."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option(metavar="FxHxW", help="Frames, rows, columns of tokens; may be repeated. Picks standard cases."),
]
Where = Annotated[Device, typer.Option(help="Where to run.")]
InPrecision = Annotated[Precision | None, typer.Option(help="By default float32 on a CPU, bfloat16 on a GPU.")]


def default_path(benchmark: str, rehearse: bool, gpu: bool) -> Path:
    """The JSON of a benchmark, named after where it runs."""
    if rehearse:
        return Path(f"{benchmark}-rehearsal.json")
    import torch

    name = torch.cuda.get_device_name().lower().replace(" ", "-") if gpu else "cpu"
    return Path("benchmarks") / f"{benchmark}-{name}.json"


def machine(device: str, dtype: str) -> str:
    """For titles."""
    from cogvid.bench.record import hardware

    found = hardware()
    where = found["gpu"] if device == "cuda" else f"{found['cpu']}, {found['threads']} threads"
    return f"{where}, {dtype}"


def record(benchmark: str, rehearse: bool, arguments: dict[str, Any], protocol: str, **found: object) -> str:
    """What a benchmark has found, as JSON, with all that its numbers depend on."""
    from datetime import UTC, datetime

    from cogvid.bench.record import hardware, versions

    whole = {
        "benchmark": benchmark,
        "rehearsal": rehearse,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "arguments": arguments,
        "protocol": protocol,
        **found,
    }
    return json.dumps(whole, indent=2, default=str) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file and its folder, or only see that it can be written, where there is no text yet.

    Raises:
        UserError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text, encoding="utf-8")
        else:
            path.touch()
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}. Choose another --out.") from error
