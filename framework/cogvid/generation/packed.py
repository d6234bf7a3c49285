"""Linear layers whose weights lie as a CPU reads them fastest, for the few rows of a generation step."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from cogvid.model.transformer import CogVideoTransformer

# Elements of a weight from which packing pays: smaller ones stay in a core's cache, where a call's own cost counts.
_WORTHWHILE = 1 << 18


class PackedLinear(nn.Module):
    """`nn.Linear` in float32 on a CPU, its weight in oneDNN's own layout.

    A step of a generation is bound by reading the weights. With few rows, torch's product reads them at less than
    half the speed of memory and is slower still with four rows than with one; this one is not.

    Args:
        linear: whose numbers these are; it is left as it is.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


# Layers that are packed already, by the identity of their weight and bias; it keeps both, so that they stay alive.
Packs = dict[tuple[int, int], tuple[nn.Linear, PackedLinear]]


def packed(model: CogVideoTransformer, compiled: bool = False, packs: Packs | None = None) -> CogVideoTransformer:
    """A copy of a model with its large linear layers packed, all else shared with it; itself where none is to pack.

    Args:
        model: for inference. On a GPU, or in another precision than float32, torch's own product is as good.
        compiled: whether its layers will be compiled: torch compiles no products with packed weights.
        packs: those of models before, which it shares where their weights are the same tensors; its own are added.
    """
    if compiled:
        return model
    chosen = {id(layer) for layer in model.modules() if isinstance(layer, nn.Linear) and _can_be_packed(layer)}
    if not chosen:
        return model
    packs = {} if packs is None else packs
    shared = {id(x): x for x in (model.backend, *model.parameters(), *model.buffers())}
    copy = deepcopy(model, shared)
    for own, original in zip(list(copy.modules()), list(model.modules()), strict=True):
        for name, layer in original.named_children():
            if isinstance(layer, nn.Linear) and id(layer) in chosen:
                key = id(layer.weight), id(layer.bias)
                if key not in packs:
                    packs[key] = layer, PackedLinear(layer)
                setattr(own, name, packs[key][1])
    return copy


def _can_be_packed(layer: nn.Linear) -> bool:
    weight = layer.weight
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return available and weight.device.type == "cpu" and weight.dtype is torch.float32 and weight.numel() >= _WORTHWHILE
