"""Weights in a file, for a network of their shapes."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from cogvid.errors import UserError


def load_weights(network: nn.Module, path: Path, other: str, advice: str) -> None:
    """Put a safetensors file of a network's state into it.

    Args:
        network: on the CPU.
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
    network.load_state_dict(state)
