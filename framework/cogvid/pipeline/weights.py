"""Weights in a file, for a network of their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cogvid.errors import UserError
from cogvid.model.transformer import CogVideoTransformer
from cogvid.pipeline.tensor_file import Later, write_order, write_tensors
from cogvid.training import job
from cogvid.training.sharding import whole


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state as a safetensors file; all processes come here, and the leader writes.

    Of what is in shards no process has more than one tensor whole at a time.
    """
    state = network.state_dict()
    later = {name: Later((*tensor.shape,), tensor.dtype, partial(whole, tensor)) for name, tensor in state.items()}
    if job.leads():
        write_tensors(path, later)
    else:
        for name in write_order(later):
            later[name].make()


def without_weights(build: Callable[[], CogVideoTransformer]) -> CogVideoTransformer:
    """A network that `load_weights` is to fill: on the meta device, it takes neither memory nor time."""
    with torch.device("meta"):
        network = build()
    for block in network.layers:
        # A plugin's module may have more than a file's tensors.
        if network.backend is not None:
            block.bias = network.backend.bias(network.config.heads)
    return network


def load_weights(
    network: nn.Module,
    path: Path,
    other: str,
    advice: str,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    shared: Mapping[str, Tensor] | None = None,
) -> None:
    """Put a safetensors file of a network's state into it, tensor by tensor: no more than one is in memory twice.

    Args:
        network: on the CPU or the meta device.
        path, other, advice: as for `read_weights`; the file's types may be others than the network's.
        device: where the network is to be; None for the CPU.
        dtype: of its numbers; None for the network's own.
        shared: tensors of another network by name, on that device; where they are equal to the file's, both networks
            have one.

    Raises:
        UserError: as `read_weights` does.
    """
    saved, state = read_weights(network, path, other, advice), dict[str, Tensor]()
    for name, wanted in network.state_dict().items():
        own = dtype if dtype is not None and wanted.is_floating_point() else wanted.dtype
        # A copy, never the file's memory: products round by where their numbers begin.
        value = saved[name].to(device or "cpu", own, copy=True)
        same = None if shared is None else shared.get(name)
        state[name] = same if same is not None and torch.equal(same, value) else value
    network.load_state_dict(state, assign=True)


def read_weights(network: nn.Module, path: Path, other: str, advice: str) -> dict[str, Tensor]:
    """The state of a network in a safetensors file, mapped into memory: read where it is used.

    Args:
        network: of the same shapes, on the meta device too.
        path: the file.
        other: what a file of other tensors holds, for the message.
        advice: what to do then.

    Raises:
        UserError: it is no such file, or one of another network; the message names the first tensor that differs.
    """
    try:
        state = mapped_tensors(path)
    except UserError as error:
        raise UserError(f"{error} {advice}") from error
    expected = network.state_dict()
    for name in sorted(state.keys() | expected.keys()):
        found, wanted = state.get(name), expected.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            raise UserError(
                f"{path} holds {other}: {name} is {'missing' if found is None else tuple(found.shape)}, the "
                f"experiment's needs {'no such tensor' if wanted is None else tuple(wanted.shape)}. {advice}"
            )
    return state


def mapped_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory.

    Raises:
        UserError: it is no such file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as a safetensors file: {cause}.") from error
