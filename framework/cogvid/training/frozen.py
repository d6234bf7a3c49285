"""What a stage must not change is proved unchanged: hashes from before its training and after it."""

from __future__ import annotations

import hashlib

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from cogvid.errors import SaidElsewhere, UserError
from cogvid.training import job
from cogvid.training.sharding import local


class Frozen(pl.Callback):
    """Holds parameters that do not require gradients, and the buffers of modules that train none, to their bits.

    Each process compares the parts that it has.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._before: dict[str, str] = {}

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        # No earlier: now every process has its own shards.
        self._before = self._digests()

    def check(self, title: str) -> None:
        """Compare.

        Args:
            title: the stage's name.

        Raises:
            UserError: one of them has changed; the message names the first.
        """
        after = self._digests()
        own = [name for name, digest in self._before.items() if after.get(name) != digest]
        changed = [name for names in job.gathered(own) for name in names]
        if changed and not job.leads():
            raise SaidElsewhere
        if changed:
            raise UserError(
                f"Stage {title}: {changed[0]} is frozen, and the training has changed it. What a component of the "
                "experiment changes while it trains has to be a parameter that requires gradients, or a buffer of a "
                "module that has such a parameter."
            )

    def _digests(self) -> dict[str, str]:
        return {name: _digest(tensor) for name, tensor in frozen_tensors(self.network).items()}


def frozen_tensors(network: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a network's state that a training must not change, by name."""
    kept = network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in kept and _of_frozen(network, name)}
    return {name: weight for name, weight in network.named_parameters() if not weight.requires_grad} | buffers


def _of_frozen(network: nn.Module, buffer: str) -> bool:
    """Whether the innermost module around a buffer that has parameters trains none of them."""
    owner = buffer
    while owner:
        owner = owner.rpartition(".")[0]
        trains = [weight.requires_grad for weight in network.get_submodule(owner).parameters()]
        if trains:
            return not any(trains)
    return False


def _digest(tensor: Tensor) -> str:
    """SHA-256 of the bytes that this process holds of a tensor."""
    content = local(tensor).detach().cpu().contiguous().view(-1).view(torch.uint8)
    return hashlib.sha256(content.numpy().data).hexdigest()
