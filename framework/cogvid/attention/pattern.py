"""Whether a pattern is one: a function of two positions to bool that lets every token see itself; and a bias one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid, Position

Fail = Callable[[str, str], None]
"""Records a failure: the check and the problem, in words. It may return."""


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
        if not _expands(near, shape):
            fail("pattern", f"has shape {tuple(near.shape)} where it has to broadcast to {shape}")
            near = torch.ones((), dtype=torch.bool, device=near.device)
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


def check_bias(backend: AttentionBackend, heads: int, grid: Grid, device: torch.device, fail: Fail) -> None:
    """Check what the bias returns, if the backend has one.

    Args:
        backend: whose bias.
        heads: of the transformer.
        grid: of the positions.
        device: where it will be.
        fail: told of failures of `bias`.
    """
    bias = backend.bias(heads)
    if bias is None:
        return
    if not isinstance(bias, nn.Module):
        fail("bias", f"is a {type(bias).__name__}, not a torch module")
        return
    slots = torch.arange(grid.tokens, device=device)
    query, key = grid.position(slots[:, None]), grid.position(slots[None, :])
    scores = bias.to(device)(query, key)
    wanted = (heads, grid.tokens, grid.tokens)
    if not isinstance(scores, Tensor):
        fail("bias", f"returns a {type(scores).__name__}, not a tensor")
    elif not scores.is_floating_point():
        fail("bias", f"returns {scores.dtype}, not floats")
    elif scores.ndim == 0 or scores.shape[0] not in (1, heads) or not _expands(scores[0], wanted[1:]):
        fail("bias", f"returns shape {tuple(scores.shape)} where it has to broadcast to {wanted}: heads, queries, keys")


def place(slot: int, text: int, grid: Grid) -> str:
    """A slot in words; `text`: how many text slots come before the frames'."""
    if slot < text:
        return f"text slot {slot}"
    frame, row, column = (int(axis) for axis in grid.position(torch.tensor(slot - text)))
    return f"(frame {frame}, row {row}, column {column})"


def _expands(x: Tensor, shape: tuple[int, ...]) -> bool:
    return x.ndim <= len(shape) and all(
        have in (1, want) for have, want in zip(reversed(x.shape), reversed(shape), strict=False)
    )
