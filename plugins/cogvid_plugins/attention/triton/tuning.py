"""Measures which launches are fastest on a GPU, and writes them into the table."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product, starmap

import torch
from triton.runtime.errors import OutOfResources  # type: ignore[import-untyped, unused-ignore]
from triton.testing import do_bench  # type: ignore[import-untyped, unused-ignore]

from cogvid.attention.blocks import block_map
from cogvid.attention.compact import compact_mask
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.triton import launch
from cogvid_plugins.attention.triton.table import Launch, Launches, capability, table_row, write_table


def tune(mask: Visibility, heads: int, head_size: int, dtype: torch.dtype, text: int = 64) -> Launches:
    """Measure candidates for one mask on the current GPU, and write the fastest into the table.

    Args:
        mask: of the sequences to be trained or generated.
        heads: of the queries.
        head_size: channels of a head.
        dtype: of queries, keys and values.
        text: text slots.
    """
    device, compact = torch.device("cuda", torch.cuda.current_device()), compact_mask(mask)
    shape = (1, text + mask.grid.tokens, heads, head_size)
    q, k, v, grad = (torch.randn(shape, device=device, dtype=dtype).transpose(1, 2) for _ in range(4))
    text_mask = torch.ones(1, text, dtype=torch.bool, device=device)

    def measured(query_block: int) -> tuple[float, Launches]:
        blocks = block_map(compact, query_block, launch.KEY_BLOCK).to(device)
        inputs, own = launch.Inputs(q[:, :, text:], k, v, text_mask, blocks), grad[:, :, text:]
        forward = _fastest(query_block, lambda one: launch.forward(inputs, one))
        out, log_sum = launch.forward(inputs, forward[1])
        queries = _fastest(query_block, lambda one: launch.query_gradient(inputs, out, log_sum, own, one))
        _, delta = launch.query_gradient(inputs, out, log_sum, own, queries[1])
        keys = _fastest(query_block, lambda one: launch.key_gradients(inputs, log_sum, delta, own, one))
        return forward[0] + queries[0] + keys[0], Launches(query_block, forward[1], queries[1], keys[1])

    _, best = min((measured(query_block) for query_block in (64, 128)), key=lambda pair: pair[0])
    write_table(capability(device), *table_row(head_size, dtype), best)
    return best


def _fastest(query_block: int, run: Callable[[Launch], object]) -> tuple[float, Launch]:
    """The candidate that takes least time, and how much, in milliseconds."""
    times = []
    for candidate in starmap(Launch, product((16, 32, 64, 128), (4, 8), (1, 2, 3), (None, 128, 168))):
        if candidate.rows <= query_block:
            try:
                taken = do_bench(lambda candidate=candidate: run(candidate), return_mode="median")
            except OutOfResources:
                continue
            times.append((float(taken), candidate))
    return min(times, key=lambda pair: pair[0])
