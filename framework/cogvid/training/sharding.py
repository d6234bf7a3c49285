"""Weights in shards, one in each process: PyTorch's `fully_shard`, filled from files that are mapped into memory.

Each tensor is cut along its first axis as `torch.chunk` does it. A block's weights are whole for as long as it runs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cogvid.config.schema import FSDP2Config
from cogvid.errors import UserError

_MMAP_THRESHOLD = -3  # of mallopt


@dataclass(frozen=True)
class Sharding:
    """How a network is shared out among the processes.

    Attributes:
        options: of the configuration.
        start: the state to start with, by name; of mapped tensors each process reads its own shard alone.
    """

    options: FSDP2Config
    start: Mapping[str, Tensor]

    def share_out(
        self, network: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, device: torch.device
    ) -> None:
        """Give each process its shard of a network that is on the meta device.

        Args:
            network: its parameters and buffers become those of `start`; frozen ones stay frozen.
            blocks: its modules whose weights are gathered at a time; those of no block are gathered for all of a pass.
            mesh: the processes, along one axis.
            device: where this process computes.
        """
        if device.type == "cpu":
            _return_memory()
        offloaded = offloads(self.options, device)
        policy = CPUOffloadPolicy() if offloaded else OffloadPolicy()
        for module in (*blocks, network):
            fully_shard(module, mesh=mesh, reshard_after_forward=self.options.reshard, offload_policy=policy)
        network.to_empty(device=torch.device("cpu") if offloaded else device)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                local(tensor).copy_(shard(self.start[name], tensor))
        for module in network.modules() if offloaded else ():
            module._buffers.update({name: buffer and buffer.to(device) for name, buffer in module._buffers.items()})


def offloads(options: FSDP2Config, device: torch.device) -> bool:
    """Whether shards are kept elsewhere than where they are computed with."""
    return options.offload and device.type != "cpu"


def _return_memory() -> None:
    """Have the C library return large blocks of memory when they are freed.

    GNU's keeps them once such a block has come and gone, and here whole layers do: training would take more memory
    than it does with whole weights.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 2**18)


def check_shardable(network: nn.Module) -> None:
    """Hold a network, on the meta device, to what can be shared out and filled by name.

    Raises:
        UserError: the bias of an attention has something that cannot.
    """
    advice = "or set trainer.strategy=ddp, which keeps whole networks in all processes."
    for name, parameter in network.named_parameters():
        if not parameter.ndim:
            raise UserError(
                f"attention: {name} is a single number, and trainer.strategy=fsdp2 cuts parameters along their first "
                f"axis. Give it the shape (1,), {advice}"
            )
    saved = network.state_dict().keys()
    for name, _ in network.named_buffers():
        if name not in saved:
            raise UserError(
                f"attention: the buffer {name} is not part of the network's state, so trainer.strategy=fsdp2 cannot "
                f"give it to all processes. Register it with persistent=True, {advice}"
            )


def share_again(network: nn.Module) -> None:
    """Forget weights that are gathered still, as those of a forward pass without gradients are where none are forgotten
    before a backward pass: the parameters are the shards again."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, sharing its memory: its shard, or all of what is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; the processes come here together, if it is in shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process has of `like`, a view; all of it where that is whole."""
    if not isinstance(like, DTensor):
        return tensor
    assert tensor.shape == like.shape
    parts, number = tensor.chunk(like.device_mesh.size()), like.device_mesh.get_local_rank()
    return parts[number] if number < len(parts) else tensor[:0]
