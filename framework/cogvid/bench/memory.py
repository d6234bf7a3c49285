"""The peak memory of a method on a CPU, each in a fresh process.

The processes are forks of a server that has imported everything and computed nothing, so they start quickly, with
neither memory nor threads of a computation before.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.nn import functional as F

from cogvid.bench.cases import AttentionCase, AttentionSettings, Problem
from cogvid.bench.check import infer, train_step
from cogvid.bench.measure import PeakMemory
from cogvid.bench.methods import Compute, find_method
from cogvid.errors import UserError

# Bytes of the forward pass alone, and with the backward pass; None where it was not measured.
Peaks = dict[str, int | None]


def peaks_in_fresh_process(name: str, case: AttentionCase, settings: AttentionSettings, backward: bool) -> Peaks:
    """The largest peaks of a method over the layers of a case.

    Args:
        name: of the method.
        case, settings: what to run.
        backward: whether the method has a backward pass here.
    """
    peaks: Peaks | None = in_fresh_process(_largest_peaks, name, case, settings, backward, torch.get_num_threads())
    return {"forward": None, "forward_backward": None} if peaks is None else peaks


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work(*arguments)` returns in a process of its own; None where it ended without an answer, such as for want
    of memory.

    Raises:
        UserError: as the work does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cogvid.bench.preload"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, work, arguments))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    finally:
        process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def _answer(answer: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer.send(work(*arguments))
    except UserError as error:
        answer.send(error)


def _largest_peaks(name: str, case: AttentionCase, settings: AttentionSettings, backward: bool, threads: int) -> Peaks:
    torch.set_num_threads(threads)
    manager = case.manager()
    method = find_method(name, case, manager)
    layers = []
    for problem in case.problems(manager, settings):
        _load_libraries(problem)
        layers.append(peaks_of(method.prepare, problem, backward))
    return {key: _largest([layer[key] for layer in layers]) for key in layers[0]}


def peaks_of(prepare: Callable[[Problem], Compute], problem: Problem, backward: bool) -> Peaks:
    """The peaks of a method on one problem, in this process."""
    _ = problem.packed, problem.weights  # they are there before any method
    memory = PeakMemory(problem.device)
    run = prepare(problem)
    peaks: Peaks = {"forward": None, "forward_backward": None}
    for key, step in (("forward", infer), ("forward_backward", train_step)):
        if key == "forward" or backward:
            step(run, problem)
            peaks[key] = memory.of(partial(step, run, problem))
    return peaks


def _largest(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None


def _load_libraries(problem: Problem) -> None:
    """What the first computation of a process loads and starts is not the method's."""
    small = torch.randn(1, 1, 64, 64, dtype=problem.dtype, device=problem.device, requires_grad=True)
    F.scaled_dot_product_attention(small @ small.mT, small, small).sum().backward()
