"""A training that has left the finite numbers: what a user is told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cogvid.config.schema import StageConfig
from cogvid.errors import UserError
from cogvid.training import job
from cogvid.training.optimizer import build_optimizer
from cogvid.training.sharding import local

# Rates at which small models learn well; of two rates the one further above its own is the more likely fault.
_ADAM_LR, _MUON_LR = 1e-3, 2e-2
_NAMED = 8


def not_finite(
    cause: str, stage: str, step: int, network: nn.Module, config: StageConfig, precision: str, clips: Sequence[str]
) -> UserError:
    """The error of a step whose loss is not finite.

    Args:
        cause: what is not finite, in words.
        stage: its name.
        step: whose loss it is, counted from 1.
        network: as the step found it.
        config: of the stage.
        precision: of the trainer.
        clips: the batch's, by id or caption.
    """
    names = list(dict.fromkeys(clips))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    batch = ", ".join(f'"{name}"' for name in names[:_NAMED]) + more
    key = _likely_key(stage, step, network, config, precision)
    return UserError(
        f"Stage {stage}: {cause} at step {step}{_of(config)}, whose batch has the clips {batch}. Most likely "
        f"{key} is at fault: change it and run the command again."
    )


def check_weights(stage: str, network: nn.Module, config: StageConfig, precision: str) -> None:
    """Hold the weights that a stage ends with to be finite.

    Raises:
        UserError: some are not; the message names the first tensor.
    """
    names = [name for name, _ in network.named_parameters()]
    counts = job.sums([float((~local(weight).isfinite()).sum()) for weight in network.parameters()])
    for name, count in zip(names, counts, strict=True):
        if count:
            key = _likely_key(stage, config.steps, network, config, precision)
            raise UserError(
                f"Stage {stage}: its last step{_of(config)} left numbers in {name} that are not finite. Most "
                f"likely {key} is at fault: change it and run the command again."
            )


def _of(config: StageConfig) -> str:
    return f" of {config.steps}" if config.steps else ""  # none where seconds decide


def _likely_key(stage: str, step: int, network: nn.Module, config: StageConfig, precision: str) -> str:
    """The configuration key that most likely led out of the finite numbers, with its value."""
    if precision.startswith("16"):
        return f"trainer.precision ({precision})"
    if step == 1:  # nothing has been learnt yet
        return {"tokenizer": "frame_tokenizer", "image_base": "model"}.get(stage, "attention")
    if not config.muon_lr:
        return f"stages.{stage}.adam_lr ({config.adam_lr})"
    optimizer, _ = build_optimizer(network.named_parameters(), config)
    largest = {group["muon"]: max(_largest(weight) for weight in group["params"]) for group in optimizer.param_groups}
    adam, muon = (job.largest(largest.get(matrices, 0.0)) for matrices in (False, True))
    if adam == muon:
        adam, muon = config.adam_lr / _ADAM_LR, config.muon_lr / _MUON_LR
    return f"stages.{stage}.muon_lr ({config.muon_lr})" if muon > adam else f"stages.{stage}.adam_lr ({config.adam_lr})"


def _largest(weight: Tensor) -> float:
    """The largest magnitude in this process's part of a tensor, infinity for what is no number."""
    own = local(weight.detach())
    value = float(own.abs().max()) if own.numel() else 0.0
    return value if math.isfinite(value) else torch.inf
