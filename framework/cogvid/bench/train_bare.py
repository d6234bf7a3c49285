"""A stage's training without Lightning, callbacks and logging: what it is measured beside."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from cogvid.bench.train_phases import PHASES, Step, Watch, synchronize
from cogvid.data.loading import load, step_numbers


class BareTraining:
    """Does what a watched training did, from its first weights on.

    Args:
        watch: of the training.
        device: that it was on.

    Attributes:
        losses: of every part of a batch.
    """

    def __init__(self, watch: Watch, device: torch.device) -> None:
        self.watch, self.device, self.losses = watch, device, list[Tensor]()
        self.module = watch.module.to(device).train()
        self.module.network.load_state_dict(watch.before)
        self.module.report = lambda loss, **values: loss  # type: ignore[method-assign]  # there is no trainer
        made = self.module.configure_optimizers()
        self.optimizer, self.schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        settings, self.parts = self.module.stage_config, self.module.parts
        self.clip_norm = settings.clip_norm
        self.batches = load(watch.samples, step_numbers(settings.batch_size, parts=self.parts), 0)
        self.number = 0

    def step(self, learning: AbstractContextManager[Any] | None = None) -> Step:
        """One step. Args: learning: a context for its forward and backward passes."""
        began = self._now()
        torch.manual_seed(self.watch.seed * 1_000_003 + self.number)
        spent = dict.fromkeys(PHASES, 0.0)
        self.optimizer.zero_grad()
        for part in range(self.parts):
            start = self._now()
            batch = [x.to(self.device) for x in next(self.batches)]
            fetched = self._now()
            with learning or nullcontext():
                with self.watch.context():
                    loss = self.module.training_step(batch, self.number * self.parts + part)
                assert isinstance(loss, Tensor)
                forward = self._now()
                (loss / self.parts).backward()
                backward = self._now()
            self.losses.append(loss.detach())
            spent["data"] += fetched - start
            spent["forward"] += forward - fetched
            spent["backward"] += backward - forward
        start = self._now()
        if self.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.number += 1
        end = self._now()
        spent["optimizer"] = end - start
        spent["rest"] = end - began - sum(spent.values())
        return Step(spent, end - began)

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()
