"""`cogvid bench decode`: decodings side by side, and what they are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.cli.bench_options import Device, Grids, Precision, Where, Words, default_path, machine, record, write
from cogvid.cli.values import parse_grid
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.bench.decode import DecodeResult
    from cogvid.bench.decode_cases import DecodeCase, DecodeSettings, Size
    from cogvid.interfaces.grid import Grid

_PROTOCOL = (
    "seconds of each pass of a clip; a way's total is the sum over the passes of the fastest of its interleaved "
    "rounds, so that hiccups of the machine are left out; the totals of all rounds are recorded, too. A token is one "
    "of every clip of the batch. Recomputing, and the cache that grows by concatenation, are never compiled."
)


def decode(
    words: Words = None,
    grid: Grids = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="tiny, quickstart, medium or paper; may be repeated. Picks standard cases."),
    ] = None,
    device: Where = Device.cpu,
    dtype: Annotated[
        Precision | None,
        typer.Option(help="By default float32 on a CPU, bfloat16 on a GPU; of a run its own, generation.dtype."),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the steps.")] = False,
    batch: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Clips at a time; 1, of a run 1 and 64. Several of a run only."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; long clips of large models have one.")] = 3,
    decoding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME...]", help="What is compared; sequential, scheduled and fixed_point by default."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Folder of a trained run, whose clips are made instead.")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Of a run's test captions.")] = 64,
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

    from cogvid.bench.decode_cases import DECODINGS, SIZES, DecodeSettings
    from cogvid.config.options import nearest
    from cogvid.interfaces.grid import Grid

    names = tuple(dict.fromkeys(part.strip() for part in (decoding or ",".join(DECODINGS)).split(",")))
    gpu = device is Device.cuda
    if gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here.")
    if run:
        if words or grid or size or rehearse:
            raise UserError("--run brings its pattern, grid and size: leave out all that names others.")
        if dtype is Precision.float16:
            raise UserError("--dtype float16: a run's clips are made in float32 or bfloat16 (generation.dtype).")
        changes = [f"trainer.accelerator={'gpu' if gpu else 'cpu'}"]
        changes += [f"generation.dtype={dtype.value}"] if dtype else []
        changes += ["generation.compile=true"] if compile else []
        path = out or Path("benchmarks/decode-run.json")
        _of_run(run, changes, names, clips, _batches(batch or "1,64"), repeats, path)
        return
    (number,) = _batches(batch or "1", several=False)
    for name in size or []:
        if name not in SIZES:
            raise UserError(f"--size: there is no size {name!r}.{nearest(name, SIZES)}")
    cases = _cases(words or [], [parse_grid(each) for each in grid or []], [SIZES[name] for name in size or []], device)
    precision = dtype.value if dtype else "bfloat16" if gpu else "float32"
    settings = DecodeSettings(device.value, precision, compile, number, repeats, names)
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


def _batches(text: str, several: bool = True) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1 or (len(sizes) > 1 and not several):
        raise UserError(f"--batch {text}: write a whole number above 0, such as 64{', or several' if several else ''}.")
    return sizes


def _of_run(
    run: Path, changes: list[str], names: tuple[str, ...], clips: int, batches: list[int], repeats: int, path: Path
) -> None:
    from rich.console import Console

    from cogvid.bench.decode_run import PROTOCOL, run_bench
    from cogvid.bench.decode_run_report import draw, lines, whole_clips

    console = Console()
    write(path, "")
    with Console(stderr=True).status("loading") as status:
        bench = run_bench(run, names, clips, changes)
        found = bench.measure(batches, repeats, status.update)
    arguments = {"run": str(run), "clips": bench.clips, "batches": batches, "repeats": repeats, "decodings": names}
    settings = {"device": bench.device, "dtype": bench.dtype, "compile": bench.generator.config.compile}
    cells = [one.record() for one in found]
    text = record("decode-run", False, arguments | settings, PROTOCOL, parts=cells, whole_clips=whole_clips(found))
    write(path, text)
    console.print("\n".join(lines(found)), markup=False, highlight=False, soft_wrap=True)
    chart = path.with_suffix(".png")
    draw(found, f"Clips of a trained run, {machine(bench.device, bench.dtype)}", chart)
    console.print(f"Results: {path}\nChart: {chart}", markup=False, soft_wrap=True)


def _cases(words: list[str], grids: list[Grid], sizes: list[Size], device: Device) -> list[DecodeCase]:
    """A pattern on all grids and sizes, or the standard cases that have these.

    Raises:
        UserError: no standard case has them, or the words name no pattern.
    """
    from cogvid.bench.decode_cases import SIZES, DecodeCase, default_cases

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
