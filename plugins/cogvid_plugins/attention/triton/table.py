"""How the kernels are launched, by GPU, head size and width of the dtype; read without Triton.

The table's entries for Hopper (9.0) follow from three of its limits, by what the compiler says of each kernel:

* 128 queries to 64 keys in the forward pass: with 64 queries, keys and values are read twice as often, which is more
  than the L2 cache delivers while the tensor cores are busy. The gradients multiply more with each block they read,
  and do with 64 queries.
* 65536 registers: two programs, or three, share a multiprocessor, so that one multiplies while another takes
  exponentials. Where that costs a few spills outside of the multiplications, `registers` asks for it. Heads of 128
  channels fill the registers with one program.
* 227 KiB of shared memory: three blocks on their way fit, for all programs that the registers allow.

Tensor cores have no exact fp32: products of fp32 are small, so that their operands stay in registers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

# {compute capability or "default": {head size: {bits of the dtype: launches}}}; the default fits any GPU since 8.0.
TABLE = Path(__file__).with_name("tuning.json")
_HEAD_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Launch:
    """Of one kernel.

    Attributes:
        rows: queries that a program handles at a time; divides the query block.
        warps: of a program, 32 threads each.
        stages: blocks that are being read or multiplied at once.
        registers: most that a thread may have; None for as many as it wants.
    """

    rows: int
    warps: int
    stages: int
    registers: int | None = None


@dataclass(frozen=True)
class Launches:
    """Of all kernels.

    Attributes:
        query_block: places of a query block of the block map.
        forward: of the forward pass.
        queries: of the gradient of the queries.
        keys: of the gradients of keys and values.
    """

    query_block: int
    forward: Launch
    queries: Launch
    keys: Launch


@lru_cache(maxsize=64)
def launches(device: torch.device, head_size: int, dtype: torch.dtype) -> Launches:
    """The table's launches for a device, or for any where it has none of its own.

    Args:
        device: where the queries are.
        head_size: at most 128.
        dtype: of 16 or 32 bits.
    """
    size, bits = table_row(head_size, dtype)
    table = json.loads(TABLE.read_text())
    entry = table.get(capability(device), {}).get(size, {}).get(bits) or table["default"][size][bits]
    return Launches(entry["query_block"], *(Launch(**entry[name]) for name in ("forward", "queries", "keys")))


def capability(device: torch.device) -> str:
    """The device's row of the table: its compute capability, or `default`."""
    return "{}.{}".format(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else "default"


def table_row(head_size: int, dtype: torch.dtype) -> tuple[str, str]:
    """The keys below it: head size, and bits of the dtype."""
    return str(next(size for size in _HEAD_SIZES if size >= head_size)), str(dtype.itemsize * 8)


def write_table(capability: str, size: str, bits: str, best: Launches) -> None:
    """Into the table, which is whole at any time."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    table.setdefault(capability, {}).setdefault(size, {})[bits] = asdict(best)
    beside = TABLE.with_name(f"{TABLE.name}.{os.getpid()}")
    beside.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(beside, TABLE)
    launches.cache_clear()
