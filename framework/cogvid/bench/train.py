"""`cogvid bench train`: a stage's real training, its bare loop beside it, and what the machine could do."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cogvid.bench.measure import Times, time_rounds
from cogvid.bench.train_bare import BareTraining
from cogvid.bench.train_phases import Step, Watch
from cogvid.bench.train_products import Products, alone, flops
from cogvid.bench.train_stage import Trainings
from cogvid.config.compose import load_experiment
from cogvid.errors import UserError
from cogvid.interfaces.mask import given_frames
from cogvid.model.flops import Flops, training_flops
from cogvid.pipeline.lab import Lab
from cogvid.training.next_token import TransformerModule

Say = Callable[[str], None]
# Steps that are not counted: memory is taken, attention laid out and the optimiser's state made in the first ones.
WARM = 3
# By how much losses may differ: a GPU adds up in another order each time.
_SAME = {"cpu": 0.0, "cuda": 1e-3}
# Width and type of the large product that a device is fastest at.
_LARGE = {"cpu": (2048, torch.float32), "cuda": (8192, torch.bfloat16)}


@dataclass(frozen=True)
class TrainCase:
    """A stage of an experiment.

    Attributes:
        name: for tables.
        experiment: its name, or a file.
        changes: `key=value` of it.
        stage: sequential, image_base or interpolation.
        target: share of the peak that is aimed at, if any.
    """

    name: str
    experiment: str
    changes: tuple[str, ...]
    stage: str
    target: float | None = None

    def lab(self, settings: TrainSettings, processes: int = 1, threads: int = 0) -> Lab:
        """Its parts, built; for so many processes, and threads of each, where they are not 0."""
        own: dict[str, object] = {f"stages.{self.stage}.steps": settings.steps, "trainer.devices": processes}
        own["trainer.accelerator"] = "gpu" if settings.device == "cuda" else "cpu"
        if self.stage != "image_base":
            own["stages.image_base.steps"] = 1
        own |= {f"budget.{name}": 0 for name in (self.stage, "image_base")}
        if threads:
            own["trainer.threads"] = threads
        changes = [change for change in self.changes if change.partition("=")[0] not in own]
        resolved = load_experiment(self.experiment, None, [*changes, *(f"{key}={value}" for key, value in own.items())])
        return Lab(resolved.config, resolved.provenance)


@dataclass(frozen=True)
class TrainSettings:
    """Of all cases: where to run, steps of a training, and rounds, in each of which each way trains once."""

    device: str = "cpu"
    steps: int = 30
    repeats: int = 3


_MEDIUM = (
    "model={layers: 12, width: 512, heads: 8}",
    "attention={name: swin_ar, options: {window: [10, 10]}}",
    "video.size=80",  # 20x20 tokens
    "text.length=64",
    "stages.image_base.batch_size=2",
    "stages.sequential.batch_size=2",
    "stages.interpolation.batch_size=2",
)
# What makes any case a tiny one.
REHEARSAL = ("model={layers: 2, width: 32, heads: 2}", "video.size=32")


def default_cases(stage: str = "sequential", device: str = "cpu") -> list[TrainCase]:
    """The quickstart, and a model of twelve layers on 5x20x20 tokens; key frames on a CPU have a target."""
    quickstart, medium = (0.55, 0.65) if (stage, device) == ("sequential", "cpu") else (None, None)
    precision = ("trainer.precision=bf16-mixed",) if device == "cuda" else ()
    return [
        TrainCase("quickstart", "quickstart", precision, stage, quickstart),
        TrainCase("medium", "quickstart", (*_MEDIUM, *precision), stage, medium),
    ]


@dataclass
class TrainResult:
    """Of one case.

    Attributes:
        batch_size: sequences of a step.
        flops: that a step needs.
        computed: FLOPs of the products that torch runs in a step: of the layers, and of attention over tiles.
        optimizer: FLOPs of the products that the optimiser runs.
        steps: of the training, all rounds.
        bare: of the training without Lightning.
        peak: seconds of the large product, of `peak_flops`.
        products: seconds of the layers' products by themselves, with nothing between them.
    """

    case: TrainCase
    batch_size: int
    flops: Flops
    computed: tuple[int, int]
    optimizer: int
    peak_flops: int
    steps: list[Step] = field(default_factory=list)
    bare: list[Step] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)

    @property
    def large(self) -> Times:
        """Seconds of the large product."""
        return spread(self.peak)

    @property
    def alone(self) -> Times:
        """Seconds of a step's products in its layers, by themselves."""
        return spread(self.products)

    def seconds(self, way: str, phase: str | None = None) -> Times:
        """Of a step of the training (`steps`) or the `bare` one; of the whole step, or a phase."""
        steps: list[Step] = getattr(self, way)
        return spread([step.phases[phase] if phase else step.total for step in steps])

    def share(self, way: str, optimizer: bool = False) -> Times:
        """Of the peak that the FLOPs of a step reach, the optimiser's too or not: of the medians, and of the fastest of
        both."""
        needed = self.flops.total + (self.optimizer if optimizer else 0)
        scale, step, peak = needed / self.peak_flops, self.seconds(way), self.large
        return Times(scale * peak.median / step.median, scale * peak.min / step.min)


def spread(values: list[float]) -> Times:
    """Median and minimum."""
    return Times(statistics.median(values), min(values))


def run_case(case: TrainCase, settings: TrainSettings, say: Say) -> TrainResult:
    """Check, then time one case.

    Args:
        case, settings: what to run.
        say: called with what is going on.

    Raises:
        UserError: the two ways to train do not give the same losses; nothing was timed.
    """
    lab, device = case.lab(settings), torch.device(settings.device)
    if lab.config.trainer.threads:
        torch.set_num_threads(lab.config.trainer.threads)
    with TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):  # progress, which nobody needs to see
        say(f"{case.name}: the image base")
        trainings = Trainings(lab, case.stage, Path(folder))
        say(f"{case.name}: checking")
        watch = trainings.train()
        bare = BareTraining(watch, device)
        for _ in range(settings.steps):
            bare.step()
        _check(case, watch, bare, _SAME[settings.device])
        result, layers = _counted(case, watch, device)
        size, dtype = _LARGE[settings.device]
        one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        result.peak_flops = 2 * size**3
        calls = {"peak": lambda: one @ other, "products": layers}
        for call in calls.values():
            call()
        for number in range(settings.repeats):
            say(f"{case.name}: round {number + 1}")
            result.steps += trainings.train().actions.steps[WARM:]
            bare = BareTraining(watch, device)
            result.bare += [bare.step() for _ in range(settings.steps)][WARM:]
            times = time_rounds(calls, 3, 0.2, device)
            result.peak.append(times["peak"].min)
            result.products.append(times["products"].min)
    return result


def _check(case: TrainCase, watch: Watch, bare: BareTraining, allowed: float) -> None:
    ours, theirs = (torch.stack(losses).double().cpu() for losses in (watch.losses, bare.losses))
    if not torch.allclose(ours, theirs, rtol=allowed, atol=0):
        step = int((ours - theirs).abs().gt(allowed * theirs.abs()).nonzero()[0])
        raise UserError(
            f"Not timed, because the check failed: {case.name}: the loss of step {step + 1} is {ours[step]:.9g} in the "
            f"training and {theirs[step]:.9g} in the same without Lightning."
        )


def _counted(case: TrainCase, watch: Watch, device: torch.device) -> tuple[TrainResult, Callable[[], None]]:
    """A result without times, and what runs the layers' products alone."""
    module = watch.module
    assert isinstance(module, TransformerModule)
    learning, everything = Products(), Products()
    with everything:
        BareTraining(watch, device).step(learning)
    batch = module.stage_config.batch_size
    needed = training_flops(module.network, batch, predicted_frames(module))
    computed = flops(learning.dense), flops(learning.batched)
    optimizer = flops(everything.dense) + flops(everything.batched) - sum(computed)
    return TrainResult(case, batch, needed, computed, optimizer, 0), alone(learning.dense, device)


def predicted_frames(module: TransformerModule) -> int:
    """The frames of a sequence that the loss asks for."""
    model = module.network
    frames = given_frames(model.stage, model.config.grid.frames).count(False)
    return frames - (model.backend is not None and model.stage == "sequential" and module.image_model_first)
