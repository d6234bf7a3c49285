"""Whether a pattern is one: a function of two positions to bool that lets every token see itself."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid, Position
from cogvid.testing.report import Fail, place


def check_pattern(backend: AttentionBackend, grid: Grid, layer: int, device: torch.device, fail: Fail) -> None:
    """Check the pattern itself, whatever is computed from it.

    Args:
        backend: whose pattern.
        grid: of the positions.
        layer: index of the transformer layer.
        device: where it has to give the same as on the CPU.
        fail: told of failures of `pattern` and `self`.
    """
    tokens, slots = grid.tokens, torch.arange(grid.tokens, device=device)

    def pattern(query: Position, key: Position, shape: tuple[int, ...]) -> Tensor:
        copies = [axis.clone() for axis in (*query, *key)]
        near = backend.pattern(query, key, layer)
        if not all(map(torch.equal, copies, (*query, *key))):
            fail("pattern", "changes the positions it is given")
        if not isinstance(near, Tensor):
            fail("pattern", f"is a {type(near).__name__}, not a tensor")
        near = torch.as_tensor(near, device=query.frame.device)
        if near.dtype is not torch.bool:
            fail("pattern", f"is {near.dtype}, not bool")
        return near.bool().expand(shape)

    def of(queries: Tensor, keys: Tensor) -> Tensor:
        query, key = grid.position(queries[:, None]), grid.position(keys[None, :])
        return pattern(query, key, (len(queries), len(keys)))

    near = of(slots, slots)
    sides = (grid.frames, grid.height, grid.width) * 2
    axes = [torch.arange(side).view([-1 if i == d else 1 for i in range(6)]) for d, side in enumerate(sides)]
    by_axes = pattern(Position(*axes[:3]), Position(*axes[3:]), sides).reshape(tokens, tokens)
    if not torch.equal(near.cpu(), by_axes):
        fail("pattern", "is another with one axis for each coordinate than with flat positions")
    parts = slots.flip(0), slots[:1], slots[-1:], slots[:0]
    if not all(torch.equal(near[q[:, None], k], of(q, k)) for q, k in product(parts, parts)):
        fail("pattern", "of some queries and keys is another than theirs among all")
    if not torch.equal(near, of(slots, slots)):
        fail("pattern", "is another the second time")
    blind = (~near.diagonal()).nonzero()[:, 0].tolist()
    if blind:
        fail("self", f"{place(blind[0], 0, grid)} does not see itself; so for {len(blind)} of {tokens} tokens")
