"""Weights in a file, for a network of their shapes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cogvid.errors import UserError
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


def load_weights(network: nn.Module, path: Path, other: str, advice: str) -> None:
    """Put a safetensors file of a network's state into it.

    Args:
        network: on the CPU.
        path, other, advice: as for `read_weights`.

    Raises:
        UserError: as `read_weights` does.
    """
    network.load_state_dict(read_weights(network, path, other, advice))


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
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as a safetensors file: {cause}. {advice}") from error
    expected = network.state_dict()
    for name in sorted(state.keys() | expected.keys()):
        found, wanted = state.get(name), expected.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            raise UserError(
                f"{path} holds {other}: {name} is {'missing' if found is None else tuple(found.shape)}, the "
                f"experiment's needs {'no such tensor' if wanted is None else tuple(wanted.shape)}. {advice}"
            )
    return state
