"""What is checked before the first trial: all that the space can be seen to hold, and that a search goes on as it
began."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from cogvid.config.compose import Resolved, differences, load_experiment, to_yaml
from cogvid.config.ranges import said
from cogvid.config.schema import ExperimentConfig, SearchConfig
from cogvid.config.space import Choices, Dimension
from cogvid.errors import UserError
from cogvid.pipeline.budget import stage_seconds, stage_settings
from cogvid.pipeline.lab import Lab
from cogvid.pipeline.run import may_change
from cogvid.pipeline.stage import write_whole
from cogvid.search.target import trained_stages
from cogvid.search.trial import as_said

EXPERIMENT, JOURNAL = "experiment.yaml", "journal.jsonl"
# Combinations that are tried one by one; each takes a few tenths of a second.
_MOST = 32


def points(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Values to try: each that an option can have, or the ends of a range that has many, with the first ones of the
    others; and all combinations of choices and ends while they are few."""
    first = {each.key: each.values[0] for each in space}
    found = [first, *(first | {each.key: value} for each in space for value in each.values[1:])]
    ends = [each.values if isinstance(each, Choices) else (each.low, each.high) for each in space]
    if math.prod(map(len, ends)) <= _MOST:
        found += [dict(zip(first, values, strict=True)) for values in product(*ends)]
    unique = {repr(point): point for point in found}
    return list(unique.values())


def check_space(resolved: Resolved, variant: str | None, changes: Sequence[str], space: Sequence[Dimension]) -> Lab:
    """Compose the experiment with values that the space can take, and build its parts.

    Args:
        resolved: the experiment.
        variant, changes: that it was composed with.
        space: of the search.

    Returns:
        The parts of the first one.

    Raises:
        UserError: one cannot be; the message names the values and what is wrong with them.
    """
    labs = []
    for point in points(space):
        values = [f"{key}={as_said(value)}" for key, value in point.items()]
        try:
            tried = load_experiment(resolved.path, variant, [*changes, *values])
            labs.append(Lab(tried.config, tried.provenance))
        except UserError as error:
            key = next((f".{key}" for key in point if key in str(error)), "")
            place = said(f"search.space{key}", resolved.provenance)
            cause = str(error).removeprefix("command line: ")
            raise UserError(f"{place}search.space holds {' '.join(values)}, which cannot be: {cause}") from error
        del labs[1:]
    return labs[0]


def check_pruning(search: SearchConfig, lab: Lab) -> None:
    """Refuse to prune by losses that come too late.

    Args:
        search: of the experiment.
        lab: its parts.

    Raises:
        UserError: the stage is not trained, or has no held-out loss before its end.
    """
    stage = search.prune
    if stage is None:
        return
    place = f"{said('search.prune', lab.sources)}search.prune: "
    if stage not in trained_stages(lab):
        raise UserError(f"{place}this experiment does not train the stage {stage}. Name one that it does.")
    own = stage_settings(lab, stage)
    if stage_seconds(lab, stage):
        raise UserError(
            f"{place}trials are compared at equal steps, and {stage} trains for seconds (budget.{stage}). Give it a "
            "budget of tokens, or leave search.prune out."
        )
    if not 0 < own.validate_every < own.steps:
        raise UserError(
            f"{place}trials are pruned by held-out losses of {stage}, and stages.{stage}.validate_every is "
            f"{own.validate_every}: there is none before the last of its {own.steps} steps. Set it to some tenth of "
            "the steps, or leave search.prune out."
        )


def open_folder(folder: Path, config: ExperimentConfig, others: str) -> Path:
    """The folder of a search, which says what is searched in what, and keeps the journal.

    Args:
        folder: made where there is none.
        config: of the experiment.
        others: pattern of the folders beside it that its trials get.

    Returns:
        The journal's file.

    Raises:
        UserError: it holds a search in another space or another experiment, or its trials' folders are there already;
            nothing is touched.
    """
    saved, journal = folder / EXPERIMENT, folder / JOURNAL
    if saved.exists():
        if changed := [change for change in differences(saved, config) if not _goes_on(change[0])]:
            lines = "; ".join(f"{key} was {old}, is now {new}" for key, old, new in changed[:5])
            more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise UserError(
                f"{folder} holds another search: {lines}{more}. Its trials say nothing about this one. Give it a name "
                "of its own with name=..., or undo the change; the old one was left as it is."
            )
    elif taken := next(folder.parent.glob(others), None):
        raise UserError(
            f"{taken} is a run of an earlier search, and {folder} does not know it. Move it away, or give this "
            "search a name of its own with name=..."
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(saved, to_yaml(config).encode())
    return journal


def _goes_on(key: str) -> bool:
    """Whether a search may go on with another value of a key."""
    return key == "search.trials" or (may_change(key) and not key.startswith("search."))
