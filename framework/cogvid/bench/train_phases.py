"""Where the time of a training goes: its own Trainer's actions, timed as they begin and end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers.profiler import Profiler
from torch import Tensor
from torch.utils.data import Dataset

from cogvid.training.callbacks import StepRandomness
from cogvid.training.modules import StageModule

# Of a step, in their order; the rest is what Lightning, callbacks and logging take.
PHASES = ("data", "forward", "backward", "optimizer", "rest")


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by phase, and of the whole.

    Attributes:
        other: of what the rest is, by Lightning's names.
    """

    phases: dict[str, float]
    total: float
    other: dict[str, float] = field(default_factory=dict)


class Actions(Profiler):
    """Lightning's profiler: a step reaches from the fetch of its first batch to that of the next step's.

    On a GPU the phases end when their work has. The last step has no end: a checkpoint is written in it.

    Attributes:
        steps: the finished ones.
    """

    def __init__(self, device: torch.device, parts: int) -> None:
        """Args: device that the training is on; parts: batches of a step."""
        super().__init__()
        self.device, self.parts, self.steps = device, parts, list[Step]()
        self._began: dict[str, float] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._fetches, self._first, self._learnt = 0, 0.0, 0.0

    def start(self, action_name: str) -> None:
        phase = _phase(action_name)
        if phase:
            synchronize(self.device)
        now = time.perf_counter()
        if phase == "data":
            if self._fetches % self.parts == 0:
                self._end_step(now)
            self._fetches += 1
        elif phase == "optimizer":
            self._learnt = self._inside()
        self._began[action_name] = now

    def stop(self, action_name: str) -> None:
        phase = _phase(action_name)
        if phase:
            synchronize(self.device)
        seconds = time.perf_counter() - self._began.pop(action_name)
        if phase == "optimizer":  # Lightning hands it a closure that does the rest of a step
            seconds -= self._inside() - self._learnt
        self._seconds[action_name] += seconds

    def _inside(self) -> float:
        return sum(s for action, s in self._seconds.items() if _phase(action) in ("forward", "backward"))

    def _end_step(self, now: float) -> None:
        if self._fetches:
            phases, other = dict.fromkeys(PHASES, 0.0), {}
            for action, seconds in self._seconds.items():
                phase = _phase(action)
                if phase:
                    phases[phase] += seconds
                elif action.startswith("[Callback]"):
                    other[action.removeprefix("[Callback]")] = seconds
            phases["rest"] = now - self._first - sum(phases.values())
            self.steps.append(Step(phases, now - self._first, other))
        self._first = now
        self._seconds.clear()


def _phase(action: str) -> str | None:
    """Which phase one of Lightning's actions is, if it is one."""
    if action.endswith("train_dataloader_next"):
        return "data"
    if action.startswith("[Strategy]"):
        name = action.rpartition(".")[2]
        return {"training_step": "forward", "backward": "backward"}.get(name)
    return "optimizer" if action.endswith(".optimizer_step") else None


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Watch(pl.Callback):
    """Times a training and keeps what it takes to repeat it without Lightning.

    Attributes:
        module: what was trained.
        samples: that it was trained on.
        before: the weights that it started with.
        losses: of every part of a batch.
        seed: of the steps.
        context: in which the precision wants the forward pass.
    """

    module: StageModule
    samples: Dataset[Any]
    before: dict[str, Tensor]
    seed: int
    context: Callable[[], Any]

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        assert isinstance(module, StageModule)
        self.module, self.samples = module, trainer.datamodule.samples  # type: ignore[attr-defined]
        self.before = {name: tensor.detach().clone() for name, tensor in module.network.state_dict().items()}
        self.context = trainer.precision_plugin.forward_context
        (self.seed,) = (each.seed for each in trainer.callbacks if isinstance(each, StepRandomness))  # type: ignore[attr-defined]
        self.actions = Actions(trainer.strategy.root_device, module.parts)
        trainer.profiler = self.actions  # type: ignore[attr-defined]
        report = module.report

        def kept(loss: Tensor, **values: Tensor) -> Tensor:
            self.losses.append(loss.detach())
            return report(loss, **values)

        module.report = kept  # type: ignore[method-assign]
