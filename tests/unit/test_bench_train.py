"""`cogvid bench train`: a training is timed only if its bare loop learns the same, and its FLOPs are counted right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cogvid import AttentionBackend, Grid
from cogvid.bench import train_bare
from cogvid.bench.measure import Times
from cogvid.bench.train import TrainCase, TrainResult, TrainSettings, default_cases
from cogvid.bench.train_phases import PHASES, Step
from cogvid.bench.train_processes import ProcessesResult
from cogvid.bench.train_products import Products, alone, flops
from cogvid.config.schema import Positions
from cogvid.data.loading import load
from cogvid.interfaces.mask import Stage, Visibility, given_frames
from cogvid.model.flops import Flops, training_flops
from cogvid.model.transformer import CogVideoTransformer
from cogvid_plugins.attention.local3d import Local3D
from cogvid_plugins.attention.naive import Naive

Bench = Callable[..., tuple[int, str, Any]]
MakeModel = Callable[..., CogVideoTransformer]


@pytest.fixture
def bench(run_bench: Bench) -> Bench:
    return partial(run_bench, "train")


def local() -> AttentionBackend:
    return Local3D(Local3D.Config(extent=[2, 2, 2], bias=True))


def test_the_standard_cases_have_the_tokens_that_they_are_said_to_have() -> None:
    grids = {case.name: case.lab(TrainSettings()).grid for case in default_cases()}
    assert grids == {"quickstart": Grid(5, 8, 8), "medium": Grid(5, 20, 20)}


@pytest.mark.parametrize("stage", ["sequential", "interpolation", "image_base"])
def test_a_rehearsal_checks_times_and_records(bench: Bench, stage: str) -> None:
    code, output, record = bench("--case", "quickstart", "--stage", stage)
    assert code == 0, output
    assert (record["benchmark"], record["rehearsal"], record["arguments"]["steps"]) == ("train", True, 6)
    (case,) = record["cases"]
    # Of six steps three are warm-up, and the last one has no end.
    assert (case["stage"], case["steps"], case["batch_size"]) == (stage, 2, 8 if stage == "image_base" else 4)
    assert case["flops"]["needed"] == case["flops"]["dense"] + case["flops"]["attention"]
    assert case["flops"]["dense"] == case["flops_run"]["layers"]
    assert case["flops"]["attention"] > 0
    assert case["flops_run"]["optimizer"] > 0
    for way in ("training", "bare"):
        own = case[way]
        assert own["phases_s"].keys() == set(PHASES)
        assert all(own["phases_s"][phase]["min"] > 0 for phase in PHASES), own
        assert own["sequences_per_s"] == pytest.approx(case["batch_size"] / own["step_s"]["median"])
        peak = case["peak_flops_per_s"]["median"]
        share = case["flops"]["needed"] / own["step_s"]["median"] / peak
        assert own["share_of_peak"]["median"] == pytest.approx(share)
        assert own["share_of_peak_with_optimizer"]["median"] > share
    assert any("History" in name for name in case["training_rest_s"])
    assert len(record["targets"]) == (stage == "sequential")
    assert f"quickstart: {stage} stage, batch" in output


def test_a_bare_loop_that_learns_something_else_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def others(samples: Any, batches: Iterator[range], workers: int) -> Iterator[Any]:
        for number, own in enumerate(batches):
            yield next(load(samples, [range(own.start + (number == 2), own.stop + (number == 2))], workers))

    monkeypatch.setattr(train_bare, "load", others)
    code, output, record = bench("--case", "quickstart")
    assert code == 1
    assert "Error: Not timed, because the check failed: quickstart: the loss of step 3 is" in output
    assert not record


@pytest.mark.slow
def test_processes_are_timed_beside_threads(bench: Bench) -> None:
    code, output, record = bench("--case", "quickstart", "--processes", "2")
    assert code == 0, output
    (shared,) = record["processes"]
    assert (shared["processes"], shared["batch_size"]) == (2, 4)
    for way in ("processes_step_s", "threads_step_s"):
        assert [len(steps) for steps in shared[way]] == [2]
    assert "quickstart: 2 processes, times as fast as 2 threads" in output


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_runs(bench: Bench) -> None:
    code, output, record = bench("--processes", "3")
    assert code == 1
    assert "batch_size" in output
    assert not record


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--case", "quikstart"), "there is no standard case 'quikstart'. Did you mean 'quickstart'?"),
        (("quickstart", "--case", "medium"), "--case picks of the standard cases"),
        (("trainer.precision=16-mixed",), "trainer.precision: 16-mixed"),
    ],
    ids=["unknown", "both", "precision"],
)
def test_what_cannot_be_asked_is_refused(bench: Bench, words: tuple[str, ...], said: str) -> None:
    code, output, record = bench(*words)
    assert code == 1
    assert said in " ".join(output.split())
    assert not record


@pytest.mark.parametrize(
    ("backend", "stage", "frozen", "positions"),
    [
        (None, "sequential", False, Positions.learned),
        (Naive(), "sequential", False, Positions.learned),
        (Naive(), "sequential", True, Positions.learned),
        (Naive(), "sequential", True, Positions.rotary),
        (local(), "sequential", True, Positions.learned),
        (local(), "interpolation", True, Positions.learned),
        (local(), "interpolation", False, Positions.rotary),
    ],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_the_products_needed_are_those_that_run(
    make_model: MakeModel, backend: AttentionBackend | None, stage: Stage, frozen: bool, positions: Positions
) -> None:
    frames = 3 if backend else 1
    model = make_model(backend, Grid(frames, 3, 4), stage, positions=positions, dtype=torch.float32)
    if frozen:
        model.freeze()
    given = torch.tensor(given_frames(stage, frames))
    predicted, batch = int((~given).sum()), 2
    tokens, text_mask = torch.zeros(batch, 4 + frames * 12, dtype=torch.long), torch.ones(batch, 4)
    with FlopCounterMode(display=False) as known, Products() as products:
        hidden = model.hidden(tokens, text_mask)[:, 4:].unflatten(1, (frames, -1))
        F.cross_entropy(
            model.project(hidden[:, ~given]).flatten(0, 2), torch.zeros(batch * predicted * 12).long()
        ).backward()
    counted = training_flops(model, batch, predicted)
    assert counted.dense == flops(products.dense)
    ops = known.get_flop_counts()["Global"]
    aten = torch.ops.aten
    assert flops(products.dense) == sum(ops.get(op, 0) for op in (aten.mm, aten.addmm))
    assert flops(products.batched) == ops[aten.bmm]
    # Every pair is scored and mixed once, and has four products more in the backward pass where one is needed.
    seen = Visibility(backend.pattern, Grid(frames, 3, 4), given_frames(stage, frames), 0) if backend else None
    plus = int(seen.dense(torch.device("cpu")).sum()) + frames * 12 * 4 if seen else 0
    own = sum(144 if each else 78 for each in given.tolist()) + frames * 12 * 4 + 4 * 4
    backward = 4 * 16 * batch * 2 * 3 * (plus + own)
    without = (
        2 * 4 * 16 * batch * own if positions is Positions.rotary and frozen else 0
    )  # nothing trains before its first layer
    assert counted.attention == backward - without


def test_products_by_themselves_are_those_that_were_counted() -> None:
    layer, x = nn.Linear(6, 5), torch.randn(7, 6)
    with Products() as products:
        layer(x).sum().backward()
    assert flops(products.dense) == 2 * 2 * 7 * 6 * 5
    with Products() as again:
        alone(products.dense, torch.device("cpu"))()
    assert flops(again.dense) == flops(products.dense)


def test_a_share_is_that_of_the_medians_and_of_the_fastest() -> None:
    steps = [Step(dict.fromkeys(PHASES, seconds / 5), seconds) for seconds in (4.0, 1.0, 2.0)]
    case = TrainCase("one", "quickstart", (), "sequential")
    result = TrainResult(case, 4, Flops(150, 50), (0, 0), 100, 1000, steps, steps, [2.0, 8.0, 4.0], [1.0])
    assert result.seconds("steps") == Times(2.0, 1.0)
    assert result.share("steps") == Times(200 / 2 / (1000 / 4), 200 / 1 / (1000 / 2))
    assert result.share("bare", optimizer=True) == Times(300 / 2 / (1000 / 4), 300 / 1 / (1000 / 2))


def test_processes_are_compared_round_by_round() -> None:
    case = TrainCase("one", "quickstart", (), "sequential")
    result = ProcessesResult(case, 2, 4, many=[[1.0, 9.0, 1.0], [4.0], [2.0]], one=[[2.0, 2.0, 0.1], [4.0], [3.0]])
    assert result.ratio == 1.5
