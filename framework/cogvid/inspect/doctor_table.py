"""What a run will need, as tables for people and as plain data for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from cogvid.inspect.doctor import Needs, StageNeeds
from cogvid.inspect.doctor_memory import Memory

_GB = 1e9
_UNKNOWN = "not known"


def tables(needs: Needs) -> list[Table]:
    """What each stage computes, and what a process of it has in memory."""
    return [_work(needs), _memory(needs)]


def _work(needs: Needs) -> Table:
    stages = needs.stages
    table = Table("", *(stage.name for stage in stages), title="Work", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("parameters", *(f"{stage.parameters:,}" for stage in stages))
    table.add_row("  frozen", *(f"{stage.parameters - stage.trained:,}" for stage in stages))
    table.add_row("  trained", *(f"{stage.trained:,}" for stage in stages))
    table.add_section()
    table.add_row("tokens a sequence", *(f"{s.sequence_tokens:,}" if s.sequence_tokens else "" for s in stages))
    table.add_row("sequences a step", *(f"{s.batch_size:,}" if s.steps else "" for s in stages))
    counted = [s.sequence_tokens * s.batch_size if s.steps else 0 for s in stages]
    table.add_row("tokens a step", *(f"{tokens:,}" if tokens else "" for tokens in counted))
    table.add_row("TFLOP a step", *(_number(s.flops, 1e12, s) for s in stages))
    table.add_row("  of attention", *(_number(s.attention_flops, 1e12, s) for s in stages))
    table.add_section()
    table.add_row("steps", *(f"{s.steps:,}" if s.steps else s.note for s in stages))
    table.add_row("time", *(_duration(s.seconds) if s.steps else "" for s in stages))
    return table


def _number(value: float | None, unit: float, stage: StageNeeds) -> str:
    if value is None:
        return _UNKNOWN if stage.steps and not stage.sequence_tokens else ""
    return f"{value / unit:,.3g}" if value / unit < 1000 else f"{value / unit:,.0f}"


def _memory(needs: Needs) -> Table:
    kinds = [kind for kind in _kinds(needs) if any(each.bytes[kind] for s in needs.stages for each in s.memory)]
    title = "Memory of a process at the fullest moment of a step, GB"
    table = Table("stage", "strategy", *kinds, "all", "when", title=title, title_justify="left")
    for column in table.columns[2:-1]:
        column.justify = "right"
    for stage in needs.stages:
        for each in stage.memory:
            fits = each.total <= needs.hardware.memory
            chosen = each.strategy == needs.strategy
            name = f"{each.strategy} x {each.processes}" if each.processes > 1 else each.strategy
            style = "" if fits else "red"
            numbers = [f"{each.bytes[kind] / _GB:,.2f}" for kind in kinds]
            whole = f"{each.total / _GB:,.2f}"
            table.add_row(stage.name, f"{name}{' *' * chosen}", *numbers, whole, each.moment, style=style)
        table.add_section()
    return table


def _kinds(needs: Needs) -> list[str]:
    return next((list(each.bytes) for stage in needs.stages for each in stage.memory), [])


def notes(needs: Needs) -> list[str]:
    """What stands under the tables: how the numbers came about."""
    hardware, (vocabulary, source) = needs.hardware, needs.vocabulary
    peak = "measured" if hardware.measured else "as its maker says"
    lines = [
        f"{needs.parameters:,} distinct parameters in all stages of the transformer; the frozen base counts once.",
        f"Vocabulary {vocabulary:,}: {source}.",
        f"Processes: {needs.processes}, * marks their strategy. Each has {hardware.title}: "
        f"{hardware.flops / 1e12:,.3g} TFLOP/s {peak}, {hardware.memory / _GB:,.1f} GB. Time assumes "
        f"{needs.utilisation:.0%} of that (--mfu); data, generation and evaluation come on top.",
        "FLOPs: dense products and attention's visible pairs, forward and backward; blocks computed again for "
        "checkpoint_activations count again.",
    ]
    if not hardware.measured:
        lines.append(f"Assumed of a GPU's process before it has a tensor: {hardware.process / _GB:,.1f} GB.")
    else:
        lines.append(
            "A process on a CPU keeps pieces of memory that it has freed, beside these numbers; "
            "MALLOC_MMAP_THRESHOLD_=65536 in its environment gives them back to the system."
        )
    if any(each.bytes["kept"] for stage in needs.stages for each in stage.memory):
        lines.append("kept: models of earlier stages that the first process has for previews.")
    lines += [f"{stage.name}: {stage.note}." for stage in needs.stages if stage.note and stage.steps]
    written, free = needs.disk
    lines.append(
        f"Disk: {written / _GB:,.2f} GB of weights and two checkpoints a stage, {free / _GB:,.1f} GB free; clips, "
        "tokens and samples come on top."
    )
    return lines


def as_data(needs: Needs) -> dict[str, Any]:
    """All of it, for JSON: bytes, FLOPs, seconds."""
    return {
        "processes": needs.processes,
        "strategy": needs.strategy,
        "hardware": asdict(needs.hardware),
        "utilisation": needs.utilisation,
        "vocabulary": {"tokens": needs.vocabulary[0], "source": needs.vocabulary[1]},
        "parameters": needs.parameters,
        "stages": [_stage(stage, needs) for stage in needs.stages],
        "missing": [{"key": key, "path": path} for key, path in needs.missing],
        "disk": {"written": needs.disk[0], "free": needs.disk[1]},
        "findings": needs.findings,
    }


def _stage(stage: StageNeeds, needs: Needs) -> dict[str, Any]:
    return {
        "name": stage.name,
        "parameters": {"all": stage.parameters, "trained": stage.trained, "frozen": stage.parameters - stage.trained},
        "tokens": {"sequence": stage.sequence_tokens, "step": stage.sequence_tokens * stage.batch_size},
        "batch_size": stage.batch_size,
        "steps": stage.steps,
        "flops": {"step": stage.flops, "dense": stage.dense_flops, "attention": stage.attention_flops},
        "seconds": stage.seconds,
        "memory": [_process(each, needs) for each in stage.memory],
        "disk": stage.disk,
        "note": stage.note,
    }


def _process(each: Memory, needs: Needs) -> dict[str, Any]:
    return {
        "strategy": each.strategy,
        "processes": each.processes,
        "moment": each.moment,
        "bytes": each.bytes,
        "total": each.total,
        "fits": each.total <= needs.hardware.memory,
    }


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"
