"""Safetensors files that are written and read tensor by tensor: no more than one of them need be in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# As the format calls them, in the order that the library writes them in: all are aligned then.
_TYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Later:
    """A tensor that is made when it is its turn to be written.

    Attributes:
        shape, dtype: that it will have.
        make: gives it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


def write_order(tensors: Mapping[str, Tensor | Later]) -> list[str]:
    """The names in the order that `write_tensors` comes to them in."""
    rank = {dtype: number for number, dtype in enumerate(_TYPES)}
    return sorted(tensors, key=lambda name: (rank[tensors[name].dtype], name))


def write_tensors(path: Path, tensors: Mapping[str, Tensor | Later]) -> None:
    """Write a safetensors file that is whole or not there, tensor by tensor."""
    order = write_order(tensors)
    header, end = {}, 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name]
            value = tensor.make() if isinstance(tensor, Later) else tensor
            assert (tuple(value.shape), value.dtype) == (tuple(tensor.shape), tensor.dtype), name
            file.write(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    partial.replace(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, each memory-mapped by itself: one that is saved takes no other with it."""
    types = {name: dtype for dtype, name in _TYPES.items()}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        (start, end), dtype = about["data_offsets"], types[about["dtype"]]
        tensors[name] = torch.empty(about["shape"], dtype=dtype)
        if end > start:
            # What is written to it goes into a copy, so that the file stays as it is.
            content = np.memmap(path, np.uint8, "c", offset=8 + size + start, shape=(end - start,))
            tensors[name] = torch.from_numpy(content).view(dtype).view(about["shape"])
    return tensors
