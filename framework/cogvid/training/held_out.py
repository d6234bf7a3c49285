"""The held-out loss: that of samples which no step trains on, the same ones whatever a run's seed."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from cogvid.training import job
from cogvid.training.sharding import share_again
from cogvid.training.steps import StepCallback, finished

# The names of the losses: of the stage, and of one frame of its sequences.
HELD_OUT = "held_out"
_FRAME = f"{HELD_OUT}_frame_"
# Seconds after which it is shown how far a measurement is.
_SOON = 3


def frame_name(number: int) -> str:
    """The name of the loss of one frame, by its number in the sequence."""
    return f"{_FRAME}{number}"


@dataclass(frozen=True)
class HeldOutSamples:
    """Samples that no step trains on.

    Attributes:
        batch: all of them: tensors as a training batch has, the samples on the first axis.
    """

    batch: Any

    @classmethod
    def of(cls, samples: Dataset[Any], count: int) -> HeldOutSamples:
        """The first so many of some samples, read once."""
        return cls(default_collate([samples[number] for number in range(count)]))

    def __len__(self) -> int:
        return len(self._tensors()[0])

    def pick(self, numbers: Tensor) -> Any:
        """A batch of some of them, by their numbers (B,)."""
        return apply_to_collection(self.batch, Tensor, lambda tensor: tensor[numbers])

    @cached_property
    def digest(self) -> str:
        """What tells them from others: of all that their loss is measured on."""
        digest = hashlib.sha256()
        for tensor in self._tensors():
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:12]

    def _tensors(self) -> list[Tensor]:
        return [self.batch] if isinstance(self.batch, Tensor) else list(self.batch)


class HeldOut(StepCallback):
    """Measures held-out losses, and lays them beside the step's own for whoever writes these down.

    All processes share the samples, and have equally many batches: a forward pass may need all of them. Training
    notices nothing: no random number is drawn from it, and each part of the network keeps its mode.
    """

    def __init__(
        self,
        samples: HeldOutSamples,
        losses: Callable[[Any], dict[str, Tensor]],
        network: nn.Module,
        *,
        every: int,
        size: int,
        show: Callable[[int, int, float], None],
        weights: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Args: samples; losses: of a batch, (B,) each, by name; network: that they are of; every: steps, 0 for the
        last one alone; size: of a process's batches; show: how many samples are done, of how many, and seconds left;
        weights: puts those that are measured into the network while it is entered."""
        self.samples, self.losses, self.network = samples, losses, network
        self.every, self.size, self.show, self.weights = every, size, show, weights

    def on_step_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        known = trainer.callback_metrics
        for name in [name for name in known if name.startswith(HELD_OUT)]:
            del known[name]  # an earlier step's
        if finished(trainer) or (self.every and trainer.global_step % self.every == 0):
            known.update({name: torch.tensor(loss) for name, loss in self.measure(trainer).items()})

    def measure(self, trainer: pl.Trainer) -> dict[str, float]:
        """Means over all samples, the same in all processes."""
        count, started = len(self.samples), time.monotonic()
        each = -(-count // job.processes())
        numbers = torch.arange(each) * job.processes() + job.rank()
        sums: dict[str, float] = defaultdict(float)
        device = trainer.strategy.root_device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.no_grad(), self.weights(), _evaluated(self.network):
            for part in numbers.split(self.size):
                batch = trainer.strategy.batch_to_device(self.samples.pick(part % count))
                with trainer.precision_plugin.val_step_context():
                    losses = self.losses(batch)
                # The last ones of some processes are there to make them equally many, and do not count.
                for name, values in losses.items():
                    sums[name] += float(values.cpu().double()[part < count].sum())
                done, passed = min(int(part[-1]) + 1, count), time.monotonic() - started
                if job.leads() and passed > _SOON:
                    self.show(done, count, passed / done * (count - done))
            share_again(self.network)  # before the averages leave it
        return {name: total / count for name, total in zip(sums, job.sums(list(sums.values())), strict=True)}


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Eval mode; then every part's own again, as some are never trained."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def held_out_info(history: Path, samples: HeldOutSamples | None) -> dict[str, Any]:
    """What `stage.json` says of a finished stage: the losses that its history ends with, of frames by their numbers,
    and what they were measured on; nothing without samples.

    Two values may be compared where `held_out_on` is the same: then the sequences were, in all that a model reads of
    them, and the frames of them that it has to predict.
    """
    if samples is None:
        return {}
    last = json.loads(history.read_text().splitlines()[-1])
    frames = {name.removeprefix(_FRAME): loss for name, loss in last.items() if name.startswith(_FRAME)}
    measured_on = {"samples": len(samples), "digest": samples.digest, "frames": [int(number) for number in frames]}
    return {HELD_OUT: last[HELD_OUT], "held_out_frames": frames, "held_out_on": measured_on}
