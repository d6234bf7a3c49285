"""Weights in a file, for a network of their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cogvid.errors import UserError
from cogvid.model.transformer import CogVideoTransformer


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
        path: the file, memory-mapped; its types may be others than the network's.
        other: what a file of other tensors holds, for the message.
        advice: what to do then.
        device: where the network is to be; None for the CPU.
        dtype: of its numbers; None for the network's own.
        shared: tensors of another network by name, on that device; where they are equal to the file's, both networks
            have one.

    Raises:
        UserError: it is no such file, or one of another network; the message names the first tensor that differs.
    """
    expected = network.state_dict()
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(found.keys() | expected.keys()):
                shape, wanted = found.get(name), expected.get(name)
                if shape is None or wanted is None or shape != tuple(wanted.shape):
                    raise UserError(
                        f"{path} holds {other}: {name} is {'missing' if shape is None else shape}, the experiment's "
                        f"needs {'no such tensor' if wanted is None else tuple(wanted.shape)}. {advice}"
                    )
            for name, wanted in expected.items():
                own = dtype if dtype is not None and wanted.is_floating_point() else wanted.dtype
                # A copy, never the file's memory: products round by where their numbers begin.
                value = file.get_tensor(name).to(device or "cpu", own, copy=True)
                same = None if shared is None else shared.get(name)
                state[name] = same if same is not None and torch.equal(same, value) else value
    except (OSError, SafetensorError) as error:
        cause = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as a safetensors file: {cause}. {advice}") from error
    network.load_state_dict(state, assign=True)
