"""Two hundred ways to write an experiment wrong: each is refused before the first step, or runs to its end.

By default all of them are checked and a few of those that pass are run; COGVID_ALL_MUTATIONS=1 runs them all.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from typer.testing import CliRunner

from cogvid.cli import app
from cogvid.config.check import without_none
from cogvid.config.compose import load_experiment
from cogvid.config.schema import ComponentConfig, ExperimentConfig
from cogvid.errors import UserError
from cogvid.pipeline.run import Run
from cogvid.plugins.manager import create_plugin_manager

COUNT = 120
SEED = 11
RUN_TO_THE_END = 3
EVERY = bool(os.environ.get("COGVID_ALL_MUTATIONS"))

NAN, INF = float("nan"), float("inf")
SIZE = Any  # the type of one number or [height, width], which OmegaConf has none for
# Of a type: what is no value of it, and what is one, but mostly out of place. Small: what is accepted is run.
WRONG_TYPE: dict[Any, list[Any]] = {
    int: ["many", 1.5, [1], {"a": 1}],
    float: ["fast", [0.1], {"a": 0.1}],
    bool: ["maybe", [True], {"a": True}],
    str: [["a"], {"a": "b"}],
    list: ["x", 3, {"a": 1}, [["x"]], [None]],
    dict: ["x", 3, [1]],
    Enum: ["neither", ["learned"], {"a": 1}, -5],
    SIZE: ["many", 1.5, [1], [16, 16, 16], ["x", 16], [[16], 16], True, {"a": 1}],
    ComponentConfig: [3, ["naive"], {"nam": "naive"}, {"name": ["naive"]}, {"name": "nothing like it"}],
}
OUT_OF_PLACE: dict[Any, list[Any]] = {
    int: [-1, 0, 1, 2, 3, 7, -(10**6)],
    float: [-1.0, -0.1, 0.0, 1e-9, 1.0, 2.0, NAN, INF, -INF],
    bool: [],
    str: ["", "  ", "no such thing", "../up", "a/b"],
    list: [[], [0], [-1], [NAN], [1, 2], [1, 0, 1], [0.5, 1.0], [INF], [2, 2, 2, 2], [""]],
    dict: [{"a": "nothing like it"}, {"a": {"options": {}}}, {"a": None}],
    Enum: [],
    SIZE: [-1, 0, 1, 3, 7, [16, 24], [24, 16], [16, 20], [0, 16], [16, -16]],
    ComponentConfig: ["", "  ", {"name": ""}],
}
HUGE: dict[Any, list[Any]] = {int: [2**31, 10**12, 10**30], float: [1e300, 10**30], str: ["x" * 300]}
SPECIAL: dict[str, list[Any]] = {
    "trainer.accelerator": ["gpu", "tpu", "mps", "cuda"],
    "trainer.precision": ["16-true", "bf16-true", "bf16-mixed", "16-mixed", "64-true", "8"],
    "trainer.strategy": ["fsdp", "deepspeed"],
    "trainer.sample_prompts": [["é"], ["a small red circle moves left " * 20], ["a red circle"]],
    "attention": ["naive", "flex", "auto", "triton"],
    "interpolation": ["hold", "linear", "sequential_overlap"],
}
# More processes than one start the command again: not under a test.
LEFT_OUT = {"trainer.devices": (2, 3, 7), "trainer.num_nodes": (2, 3, 7)}


@dataclass(frozen=True)
class Mutation:
    """One thing written wrong.

    Attributes:
        kind: of mistake.
        key: full key, in the experiment.
        value: that it gets.
        around: what the keys above it are set to first.
    """

    kind: str
    key: str
    value: Any
    around: tuple[tuple[str, Any], ...] = ()

    def apply(self, tree: dict[str, Any]) -> dict[str, Any]:
        tree = deepcopy(tree)
        for key, value in (*self.around, (self.key, self.value)):
            *above, name = key.split(".")
            inner = tree
            for part in above:
                if not isinstance(inner.get(part), dict):
                    inner[part] = {}
                inner = inner[part]
            inner[name] = deepcopy(value)
        return tree


def mutations(tree: dict[str, Any]) -> Iterator[Mutation]:
    """All there are, of every key of the schema and of every option of the built-in components."""
    for key, expected in _keys(ExperimentConfig):
        yield from _of_key(key, expected, ())
        for value in SPECIAL.get(key, ()):
            yield Mutation("out of range", key, value)
    where = {"metric": "evaluation.metrics.extra"}
    for info in create_plugin_manager().components():
        key = where.get(info.kind, info.kind)
        component = {"name": info.name, "options": _required(info.cls.Config)}
        for option, expected in get_type_hints(info.cls.Config).items():
            yield from _of_key(f"{key}.options.{option}", expected, ((key, component),))
        yield Mutation("typo", f"{key}.options.optoin", 1, ((key, component),))


def _required(options: type) -> dict[str, Any]:
    """The options that have to be set, all of them paths."""
    return dict.fromkeys(OmegaConf.missing_keys(OmegaConf.structured(options)), ".")


def _keys(expected: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    types = get_type_hints(expected)
    for entry in fields(expected):
        inner = without_none(types[entry.name])[0]
        yield prefix + entry.name, types[entry.name]
        if is_dataclass(inner) and inner is not ComponentConfig:
            yield from _keys(inner, f"{prefix}{entry.name}.")


def _of_key(key: str, expected: Any, around: tuple[tuple[str, Any], ...]) -> Iterator[Mutation]:
    inner, optional = without_none(expected)
    known = get_origin(inner) or inner
    if isinstance(known, type) and issubclass(known, Enum):
        known = Enum
    letters = key.rpartition(".")[2]
    for typo in (letters[:-1], letters[1:], letters + "s", letters[1] + letters[0] + letters[2:]):
        yield Mutation("typo", key.removesuffix(letters) + typo, 1, around)
    if not optional:
        yield Mutation("missing", key, None, around)
    if is_dataclass(known) and known is not ComponentConfig:
        yield from (Mutation("type", key, value, around) for value in WRONG_TYPE[dict])
        return
    yield from (Mutation("type", key, value, around) for value in WRONG_TYPE[known])
    for value in OUT_OF_PLACE[known]:
        if value not in LEFT_OUT.get(key, ()):
            yield Mutation("option" if around else "out of range", key, value, around)
    yield from (Mutation("huge", key, value, around) for value in HUGE.get(known, ()))


def drawn(tree: dict[str, Any]) -> list[Mutation]:
    """As many of each kind, the same every time."""
    by_kind: dict[str, list[Mutation]] = {}
    for mutation in mutations(tree):
        by_kind.setdefault(mutation.kind, []).append(mutation)
    random.Random(SEED).shuffle(order := [m for kind in by_kind.values() for m in kind])
    turns = Counter[str]()
    numbered = [(turns.update([m.kind]) or turns[m.kind], m) for m in order]
    return [m for _, m in sorted(numbered, key=lambda pair: pair[0])][:COUNT]


@pytest.fixture(scope="module")
def tree(tiny_text: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(tiny_text)
    del parsed["variants"]
    return parsed


def refusal(path: Path, runs: Path) -> str | None:
    """The message that an experiment is refused with before anything is made; None for one that may run."""
    try:
        Run(load_experiment(path), runs)
    except UserError as error:
        return str(error)
    return None


def write(folder: Path, tree: dict[str, Any], name: str = "mutated") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_every_key_is_mutated(tree: dict[str, Any]) -> None:
    keys = {mutation.key for mutation in mutations(tree)}
    assert {"model.heads", "stages.interpolation.betas", "seed", "attention.options.extent"} <= keys
    assert len({mutation.kind for mutation in drawn(tree)}) == 6


def run_to_the_end(path: Path, runs: Path) -> str:
    """Of an experiment that passed all checks: nothing if it ran to its end, else what stopped it, before training."""
    threads, random_state = torch.get_num_threads(), torch.get_rng_state()
    before = set(runs.glob("stages/*/stage.json"))
    result = CliRunner().invoke(app, ["run", str(path), "--runs", str(runs)])
    torch.set_num_threads(threads)
    torch.set_rng_state(random_state)
    if result.exit_code == 0:
        return ""
    assert result.exit_code == 1, (path.read_text(), result.exception)
    assert "Error: " in result.output, (path.read_text(), result.exception)
    message = result.output[result.output.index("Error: ") :].strip()
    assert "\n" not in message, message
    made = {file.parent.name.partition("-")[0] for file in set(runs.glob("stages/*/stage.json")) - before}
    begun = [file.parent for file in runs.glob("stages/*/history.jsonl")]
    assert made <= {"data", "text_tokenizer"}, message
    assert all((stage / "stage.json").exists() for stage in begun), message
    return message


def test_a_mistake_is_refused_in_one_paragraph_or_runs_to_the_end(
    tree: dict[str, Any], tmp_path: Path, copied: Path
) -> None:
    passed, counts = [], Counter[tuple[str, str]]()
    for mutation in drawn(tree):
        message = refusal(write(tmp_path, mutation.apply(tree)), tmp_path / "runs")
        counts[mutation.kind, "refused" if message else "passed the checks"] += 1
        if message is None:
            passed.append(mutation)
            continue
        assert "\n" not in message.strip(), mutation
        words = mutation.key.split(".")
        assert words[-1] in message or words[0] in message, (mutation, message)
    assert not list(tmp_path.glob("runs/*"))
    for number, mutation in enumerate(passed if EVERY else passed[:: len(passed) // RUN_TO_THE_END + 1]):
        path = write(tmp_path, mutation.apply(tree), f"number{number}")
        message = run_to_the_end(path, copied / "runs")
        counts[mutation.kind, "refused with the clips" if message else "ran to the end"] += 1
        print(f"{mutation}: {message or 'ran to the end'}", flush=True)
    print("\n".join(f"{kind}, {what}: {count}" for (kind, what), count in sorted(counts.items())))
