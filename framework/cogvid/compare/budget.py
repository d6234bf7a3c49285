"""Whether variants were given equally much training, and of what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cogvid.compare.read import RunRecord
from cogvid.compare.variants import Variant

_STAGES = ("tokenizer", "image_base", "sequential", "interpolation")


def budget_notes(variants: Sequence[Variant]) -> Iterator[str]:
    """What the stages of several variants trained for: equal amounts in one sentence, others in one for each stage."""
    equal = []
    for stage in _STAGES:
        amounts = {v.label: _amount(run, stage) for v in variants for run in v.runs if stage in run.stages}
        given = list(dict.fromkeys(amounts.values()))
        if len(amounts) < 2 or "" in given:
            continue
        if len(given) == 1:
            equal.append(f"{stage} {given[0]}")
        else:
            each = ", ".join(f"{label} {amount}" for label, amount in amounts.items())
            yield f"Variants differ in the budget of {stage}: {each}."
    if equal:
        yield f"Budgets that are equal in all variants: {', '.join(equal)}."


def _amount(run: RunRecord, stage: str) -> str:
    """In words; empty where the run does not say it."""
    budget = run.config.get(f"budget.{stage}")
    amount, unit = (
        (budget, run.config.get("budget.unit")) if budget else (run.config.get(f"stages.{stage}.steps"), "steps")
    )
    return f"{amount:,} {unit}" if isinstance(amount, int) else ""
