"""`cogvid bench train`: how near a stage's training comes to what the machine can do, and where its time goes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogvid.cli.bench_options import Device, Where, default_path, machine, record, write
from cogvid.errors import UserError

if TYPE_CHECKING:
    from cogvid.bench.train import TrainCase, TrainResult
    from cogvid.bench.train_processes import ProcessesResult

_PROTOCOL = (
    "A stage is trained as `cogvid run` trains it, Lightning's Trainer, callbacks and loader included, on made-up "
    "clips, and its output goes to no terminal; a profiler of the Trainer times its actions. Beside it, in turns, the "
    "same steps in a bare loop, whose losses were equal before anything was timed. The first three steps and the last, "
    "which writes a checkpoint, are left out; held-out losses and previews are not part of a step. FLOPs needed are "
    "those of the layers' products and of attention by visible pairs, forward and backward, without weight gradients "
    "of what is frozen; hidden pairs of tiles, scores computed again and the optimiser's products are not in them. The "
    "peak is that of one large product in the same rounds. Shares are of medians, and of the fastest of both."
)
_DEFAULT = "quickstart"


class Trained(StrEnum):
    """A stage that trains a transformer."""

    image_base = "image_base"
    sequential = "sequential"
    interpolation = "interpolation"


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT] [key=value]...",
            help="What is trained; without any, the quickstart and a medium model, which have targets.",
        ),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Of the standard cases, quickstart or medium alone.")
    ] = None,
    stage: Annotated[Trained, typer.Option(help="Whose steps.")] = Trained.sequential,
    steps: Annotated[int, typer.Option(min=5, help="Steps of a training; four are not counted.")] = 30,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds in which each way trains once.")] = 3,
    processes: Annotated[
        int, typer.Option(min=1, help="So many processes of one thread beside one of as many threads, too.")
    ] = 1,
    device: Where = Device.cpu,
    json: Annotated[bool, typer.Option("--json", help="Print the record instead of a summary.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="All of it with a tiny model, in seconds; the numbers mean nothing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The JSON; benchmarks/train-DEVICE.json by default.")
    ] = None,
) -> None:
    """Check that a training and its bare loop learn the same, then time them beside the machine's peak."""
    from dataclasses import asdict, replace

    import torch
    from rich.console import Console

    from cogvid.bench.train import REHEARSAL, TrainSettings, run_case
    from cogvid.bench.train_processes import run_processes
    from cogvid.bench.train_report import processes_json, processes_lines, targets, train_json, train_lines

    gpu = device is Device.cuda
    if gpu and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here.")
    if gpu and processes > 1:
        raise UserError("--processes compares processes with the threads of a CPU: leave out --device cuda.")
    cases, settings = _cases(words or [], case or [], stage, device), TrainSettings(device.value, steps, repeats)
    if rehearse:
        cases = [replace(each, changes=(*each.changes, *REHEARSAL)) for each in cases]
        settings = replace(settings, steps=6, repeats=1)
    labs = [each.lab(settings, processes) for each in cases]
    for lab in labs:
        if lab.config.trainer.precision == "16-mixed":
            raise UserError(
                "trainer.precision: 16-mixed scales its losses, which no bare loop here does; use bf16-mixed."
            )
    path = out or default_path("train", rehearse, gpu)
    write(path, "")  # a folder that cannot be written to should show before the work
    console, text = Console(), ""
    results: list[TrainResult] = []
    shared: list[ProcessesResult] = []

    def say(lines: list[str]) -> None:
        nonlocal text
        found = {
            "cases": [train_json(one) for one in results],
            "processes": [processes_json(one) for one in shared],
            "targets": [{**vars(aim), "reached": aim.reached} for aim in targets(results, shared)],
        }
        text = record("train", rehearse, asdict(settings), _PROTOCOL, **found)
        write(path, text)  # after each part, so that an interruption leaves those before it
        if not json:
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    precisions = ", ".join(dict.fromkeys(lab.config.trainer.precision for lab in labs))
    if not json:
        console.print(machine(device.value, precisions), markup=False, highlight=False)
    with Console(stderr=True).status("") as status:
        for each in cases:
            results.append(run_case(each, settings, status.update))
            say(train_lines(results[-1]))
        for each in cases if processes > 1 else ():
            shared.append(run_processes(each, settings, processes, 1 if rehearse else processes, status.update))
            say(processes_lines(shared[-1]))
    aims = [aim.line() for aim in targets(results, shared)]
    say(["targets" + (": a rehearsal reaches none" if rehearse else ""), *aims] if aims else [])
    if json:
        typer.echo(text, nl=False)
    else:
        console.print(f"Results: {path}", markup=False, soft_wrap=True)


def _cases(words: list[str], names: list[str], stage: Trained, device: Device) -> list[TrainCase]:
    """The experiment that is named, or the standard cases.

    Raises:
        UserError: there is no standard case of a name, or one is asked for beside an experiment.
    """
    from cogvid.bench.train import TrainCase, default_cases
    from cogvid.config.options import nearest

    if words:
        if names:
            raise UserError("--case picks of the standard cases; leave it out, or the experiment and its changes.")
        named, changes = (words[0], words[1:]) if "=" not in words[0] else (_DEFAULT, words)
        return [TrainCase(" ".join([named, *changes]), named, tuple(changes), stage.value)]
    standard = {each.name: each for each in default_cases(stage.value, device.value)}
    for name in names:
        if name not in standard:
            raise UserError(f"--case: there is no standard case {name!r}.{nearest(name, standard)}")
    return [each for each in standard.values() if not names or each.name in names]
