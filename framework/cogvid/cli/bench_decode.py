"""`cogvid bench decode`: decodings side by side, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.cli.bench_options import Device, Grids, InPrecision, Where, Words, default_path, machine, record, write
from cogvid.cli.values import parse_grid
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.bench.decode import DecodeCase, DecodeResult, DecodeSettings, Size
    from cogvid.interfaces.grid import Grid

_PROTOCOL = (
    "seconds of each pass of a clip; a way's total is the sum over the passes of the fastest of its interleaved "
    "rounds, so that hiccups of the machine are left out; the totals of all rounds are recorded, too. A token is one of every "
    "clip of the batch. Recomputing, and the cache that grows by concatenation, are never compiled."
)


def decode(
    words: Words = None,
    grid: Grids = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="tiny, quickstart, medium or paper; may be repeated. Picks standard cases."),
    ] = None,
    device: Where = Device.cpu,
    dtype: InPrecision = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the steps.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Clips at a time.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; long clips of large models have one.")] = 3,
    decoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]", help="What is compared; sequential, scheduled and fixed_point by default."
        ),
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="All of it with a tiny model, in seconds; the numbers mean nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The JSON; benchmarks/decode-DEVICE.json by default. With a chart."),
    ] = None,
) -> None:
    """Check that exact ways to generate a clip agree, then time them: one slot a pass, decodings, without a cache."""
    from dataclasses import replace

    import torch

    from cogvid.bench.decode import DECODINGS, SIZES, DecodeSettings
    from cogvid.config.options import nearest
    from cogvid.interfaces.grid import Grid

    gpu = device is Device.cuda
    if gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here.")
    for name in size or []:
        if name not in SIZES:
            raise UserError(f"--size: there is no size {name!r}.{nearest(name, SIZES)}")
    cases = _cases(words or [], [parse_grid(each) for each in grid or []], [SIZES[name] for name in size or []], device)
    precision = dtype.value if dtype else "bfloat16" if gpu else "float32"
    names = tuple(dict.fromkeys(part.strip() for part in (decoding or ",".join(DECODINGS)).split(",")))
    settings = DecodeSettings(device.value, precision, compile, batch, repeats, names)
    if rehearse:
        cases = list(dict.fromkeys(replace(case, size=SIZES["tiny"], grid=Grid(3, 4, 5)) for case in cases))
        settings = replace(settings, repeats=1)
    for case in cases:
        for name in names:
            case.decoding(name)
        case.backend()  # an unknown one, or a wrong option, should show before anything is measured
    path = out or default_path("decode", rehearse, gpu)
    write(path, "")  # a folder that cannot be written to, too
    _run(cases, settings, path, rehearse)


def _cases(words: list[str], grids: list[Grid], sizes: list[Size], device: Device) -> list[DecodeCase]:
    """A pattern on all grids and sizes, or the standard cases that have these.

    Raises:
        UserError: no standard case has them, or the words name no pattern.
    """
    from cogvid.bench.decode import SIZES, DecodeCase, default_cases

    if words:
        from cogvid.config.partial import load_attention
        from cogvid.inspect.target import DEFAULT_GRID

        choice = load_attention(words)
        return [
            DecodeCase(each, choice.component, on, tuple(choice.plugins))
            for each in sizes or [SIZES["quickstart"]]
            for on in grids or [DEFAULT_GRID]
        ]
    standard = default_cases(device.value)
    cases = [case for case in standard if (not grids or case.grid in grids) and (not sizes or case.size in sizes)]
    if not cases:
        raise UserError(
            f"No standard case has this size and grid; there are: {'; '.join(case.name for case in standard)}. Name a "
            "pattern for another one, such as attention=local3d."
        )
    return cases


def _run(cases: list[DecodeCase], settings: DecodeSettings, path: Path, rehearse: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from cogvid.bench.decode import read_bandwidth, run_case
    from cogvid.bench.decode_report import draw, lines, summary

    console = Console()
    results: list[DecodeResult] = []
    arguments = asdict(settings)
    bandwidth = read_bandwidth(settings.device)
    with Console(stderr=True).status("") as status:
        for case in cases:
            results.append(run_case(case, settings, status.update))
            console.print("\n".join(lines(results[-1], bandwidth)), markup=False, highlight=False)
            # After each case, so that an interruption leaves those before it.
            cells = summary(results, bandwidth)
            write(path, record("decode", rehearse, arguments, _PROTOCOL, read_bandwidth=bandwidth, cases=cells))
    chart = path.with_suffix(".png")
    draw(results, f"Generation, {machine(settings.device, settings.dtype)}, batch {settings.batch}", chart)
    console.print(f"Results: {path}\nChart: {chart}", markup=False, soft_wrap=True)
