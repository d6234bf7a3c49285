"""How the kernels of `triton_attention.py` are launched, by GPU, head size and width of the dtype; and a tuner.

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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product, starmap
from pathlib import Path
from typing import Any

import torch

from cogvid.attention.blocks import block_map
from cogvid.attention.compact import compact_mask
from cogvid.attention.mask import Visibility

# {compute capability or "default": {head size: {bits of the dtype: settings}}}; the default fits any GPU since 8.0.
TABLE = Path(__file__).with_name("triton_tuning.json")
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
class Settings:
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
def settings(device: torch.device, head_size: int, dtype: torch.dtype) -> Settings:
    """The table's settings for a device, or for any where it has none of its own.

    Args:
        device: where the queries are.
        head_size: at most 128.
        dtype: of 16 or 32 bits.
    """
    size, bits = _row(head_size, dtype)
    table = json.loads(TABLE.read_text())
    entry = table.get(_capability(device), {}).get(size, {}).get(bits) or table["default"][size][bits]
    return Settings(entry["query_block"], *(Launch(**entry[name]) for name in ("forward", "queries", "keys")))


def _capability(device: torch.device) -> str:
    return "{}.{}".format(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else "default"


def _row(head_size: int, dtype: torch.dtype) -> tuple[str, str]:
    return str(next(size for size in _HEAD_SIZES if size >= head_size)), str(dtype.itemsize * 8)


def tune(mask: Visibility, heads: int, head_size: int, dtype: torch.dtype, text: int = 64) -> Settings:
    """Measure candidates for one mask on the current GPU, and write the fastest into the table.

    Args:
        mask: of the sequences to be trained or generated.
        heads: of the queries.
        head_size: channels of a head.
        dtype: of queries, keys and values.
        text: text slots.
    """
    # Only here: the table can be read without Triton.
    from cogvid_plugins import triton_attention as attention

    device, compact = torch.device("cuda", torch.cuda.current_device()), compact_mask(mask)
    shape = (1, text + mask.grid.tokens, heads, head_size)
    q, k, v, grad = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(4))
    text_mask = torch.ones(1, text, dtype=torch.bool, device=device)

    def measured(query_block: int) -> tuple[float, Settings]:
        blocks = block_map(compact, query_block, attention.KEY_BLOCK).to(device)
        inputs, own = attention.Inputs(q[:, :, text:], k, v, text_mask, blocks), grad[:, :, text:]
        forward = _fastest(query_block, lambda launch: attention.forward(inputs, launch))
        out, log_sum = attention.forward(inputs, forward[1])
        queries = _fastest(query_block, lambda launch: attention.query_gradient(inputs, out, log_sum, own, launch))
        _, delta = attention.query_gradient(inputs, out, log_sum, own, queries[1])
        keys = _fastest(query_block, lambda launch: attention.key_gradients(inputs, log_sum, delta, own, launch))
        return forward[0] + queries[0] + keys[0], Settings(query_block, forward[1], queries[1], keys[1])

    _, best = min((measured(query_block) for query_block in (64, 128)), key=lambda pair: pair[0])
    _write(_capability(device), *_row(head_size, dtype), best)
    return best


def _fastest(query_block: int, run: Callable[[Launch], object]) -> tuple[float, Launch]:
    """The candidate that takes least time, and how much, in milliseconds."""
    from triton.runtime.errors import OutOfResources  # type: ignore[import-untyped, unused-ignore]
    from triton.testing import do_bench  # type: ignore[import-untyped, unused-ignore]

    times = []
    for launch in starmap(Launch, product((16, 32, 64, 128), (4, 8), (1, 2, 3), (None, 128, 168))):
        if launch.rows <= query_block:
            try:
                times.append((float(do_bench(lambda launch=launch: run(launch), return_mode="median")), launch))
            except OutOfResources:
                continue
    return min(times, key=lambda pair: pair[0])


def _write(capability: str, size: str, bits: str, best: Settings) -> None:
    """Into the table, which is whole at any time."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    table.setdefault(capability, {}).setdefault(size, {})[bits] = asdict(best)
    beside = TABLE.with_name(f"{TABLE.name}.{os.getpid()}")
    beside.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(beside, TABLE)
    settings.cache_clear()
