"""`cogvid bench`: what is right, and then how fast."""

from __future__ import annotations

import typer

from cogvid.cli.bench_attention import attention
from cogvid.cli.bench_data import data
from cogvid.cli.bench_decode import decode
from cogvid.cli.bench_doctor import doctor
from cogvid.cli.bench_train import train


def register(app: typer.Typer) -> None:
    """Add the command group `bench`."""
    bench = typer.Typer(no_args_is_help=True, help="Measure speed and memory of what has passed its check.")
    bench.command()(attention)
    bench.command()(decode)
    bench.command()(data)
    bench.command()(train)
    bench.command()(doctor)
    app.add_typer(bench, name="bench")
