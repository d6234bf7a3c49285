"""`cogvid bench attention`: ways to compute attention, first whether they are right, then how fast they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogvid.cli.bench_options import Device, Grids, InPrecision, Where, Words, default_path, machine, record, write
from cogvid.cli.values import parse_grid
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.bench.attention import CaseResult
    from cogvid.bench.cases import AttentionCase, AttentionSettings


def attention(
    words: Words = None,
    grid: Grids = None,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="dense, causal, tiled, natten, or backends such as flex.")
    ] = None,
    device: Where = Device.cpu,
    dtype: InPrecision = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences.")] = 1,
    heads: Annotated[int, typer.Option(min=1, help="Heads.")] = 8,
    head_size: Annotated[int, typer.Option(min=1, help="Channels of a head.")] = 64,
    text: Annotated[int, typer.Option(min=4, help="Text slots; the first five in sixteen are padding.")] = 64,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Leave the backward pass out.")] = False,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Rounds in which each method is timed once; 5, on a GPU 20.")
    ] = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="On a GPU: first let kernels choose how they are launched, on the first case."),
    ] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="All of it on a tiny grid, in seconds; the numbers mean nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The JSON; benchmarks/attention-DEVICE.json by default. A chart goes beside it."
        ),
    ] = None,
) -> None:
    """Check ways to compute attention against their mask, then time them and take their memory."""
    import torch

    from cogvid.bench.cases import AttentionSettings, cases_on, default_cases, make_case, rehearsal
    from cogvid.bench.methods import check_names, default_names, own_name

    if device is Device.cuda and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here.")
    grids = [parse_grid(each) for each in grid or []]
    cases = default_cases(device.value)
    if words:
        from cogvid.config.partial import load_attention
        from cogvid.inspect.target import DEFAULT_GRID

        choice = load_attention(words)
        cases = [make_case(choice.component, each, choice.plugins) for each in grids or [DEFAULT_GRID]]
    elif grids:
        cases = cases_on(cases, grids)
    gpu = device is Device.cuda
    settings = AttentionSettings(
        device=device.value,
        dtype=dtype.value if dtype else "bfloat16" if gpu else "float32",
        batch=batch,
        heads=heads,
        head_size=head_size,
        text=text,
        forward_only=forward_only,
        repeats=repeats or (20 if gpu else 5),
    )
    if rehearse:
        cases, settings = rehearsal(cases, settings)
    # An unknown backend or option should show before anything is measured.
    for case in cases:
        manager = case.manager()
        manager.create("attention", case.component.name, case.component.options, "attention")
    names = default_names(device.value, rehearse)
    names += [name for name in own_name(cases[0], manager) if name not in names]
    if methods:
        names = list(dict.fromkeys(name.strip() for name in methods.split(",")))
        check_names([name for name in names if name not in own_name(cases[0], manager)], manager)
    path = out or default_path("attention", rehearse, gpu)
    write(path, "")  # a folder that cannot be written to should show before the work
    if tune and not gpu:
        typer.echo("Only a GPU has kernels to tune: left out.", err=True)
    _run(cases, names, settings, path, tune and gpu, rehearse)


def _run(
    cases: list[AttentionCase], names: list[str], settings: AttentionSettings, path: Path, tune: bool, rehearse: bool
) -> None:
    from rich.console import Console

    from cogvid.bench.attention import run_case
    from cogvid.bench.attention import tune as tune_methods
    from cogvid.bench.report import draw, notes, table

    console = Console()
    results: list[CaseResult] = []
    tuned: dict[str, Any] = {}
    with Console(stderr=True).status("") as status:
        if tune:
            tuned = tune_methods(cases[0], names, settings, status.update)
        for case in cases:
            results.append(run_case(case, names, settings, status.update))
            console.print(table(results[-1], settings))
            console.print(
                "\n".join(f"  {note}" for note in notes(results[-1])), markup=False, highlight=False, style="dim"
            )
            # After each case, so that an interruption leaves those before it.
            write(path, _record(results, names, settings, tuned, rehearse))
    chart = path.with_suffix(".png")
    layout = f"{settings.heads} heads of {settings.head_size}"
    draw(results, f"Attention, {machine(settings.device, settings.dtype)}, {layout}", chart)
    console.print(f"Results: {path}\nChart: {chart}", markup=False, soft_wrap=True)
    wrong = [f"{name} on {one.case.name}: {one.methods[name].skipped}" for one in results for name in one.wrong]
    if wrong:
        raise UserError(f"Not timed, because the check failed: {'; '.join(wrong)}.")


def _record(
    results: list[CaseResult], names: list[str], settings: AttentionSettings, tuned: dict[str, Any], rehearse: bool
) -> str:
    from dataclasses import asdict

    from cogvid.bench.report import as_json

    arguments = {**asdict(settings), "padding": settings.padding, "methods": names}
    protocol = "seconds of one call, median and minimum over interleaved rounds, mean over distinct layers"
    return record("attention", rehearse, arguments, protocol, tuned=tuned, cases=as_json(results, settings))
