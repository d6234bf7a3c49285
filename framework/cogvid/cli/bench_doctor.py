"""`cogvid bench doctor`: the memory that `cogvid doctor` predicts against that of real trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cogvid.cli.bench_options import default_path, record, write
from cogvid.errors import UserError

_STEPS = 2  # the second finds gradients and optimiser state of the first


def doctor(
    strategies: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="one process, ddp, fsdp2; all by default.")
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="A tiny size in one process, in seconds; the numbers mean little.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The JSON; benchmarks/doctor-cpu.json by default.")
    ] = None,
) -> None:
    """Train five sizes with three strategies on the CPU, and compare their peak memory with the prediction."""
    import tempfile
    from dataclasses import asdict

    from rich.console import Console

    from cogvid.bench.training_memory import GIVE_BACK, REHEARSED, SIZES, STRATEGIES, compare
    from cogvid.pipeline.run import Run  # a training's process has imported all of it  # noqa: F401

    names = strategies.split(",") if strategies else list(STRATEGIES)[: 1 if rehearse else None]
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise UserError(f"--strategies {unknown[0]}: known are {', '.join(STRATEGIES)}.")
    path = out or default_path("doctor", rehearse, gpu=False)
    write(path, "")
    protocol = (
        "peak resident bytes (ru_maxrss) of the process that has most, over three stages of two steps each, on made-up "
        "tokens; predicted before, by cogvid doctor"
    )
    sizes = REHEARSED if rehearse else SIZES
    console, found = Console(), []
    for size in sizes:
        for name in names:
            with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status(f"{size.name}, {name}"):
                one = compare(size, name, Path(folder), _STEPS)
            found.append(asdict(one) | {"error": one.error})
            console.print(
                f"{size.name}, {name}: predicted {one.predicted / 1e6:,.0f} MB, measured {one.measured / 1e6:,.0f} MB "
                f"({one.error:+.1%})",
                markup=False,
                highlight=False,
            )
            arguments = {"sizes": [asdict(each) for each in sizes], "strategies": names, "environment": GIVE_BACK}
            write(path, record("doctor", rehearse, arguments, protocol, trainings=found))
    console.print(f"Results: {path}", markup=False, soft_wrap=True)
