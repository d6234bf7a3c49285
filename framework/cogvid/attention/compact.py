"""A mask without its square: which spatial mask holds between two frames, and each spatial mask once.

A mask over F frames of N tokens has (F N)^2 entries, 13 thousand million for 32 frames of 60x60. But between most
pairs of frames a pattern says the same about the places in them. So it is evaluated with one axis for each of the
six coordinates, its conjunctions `a & b` kept apart: `near in time & near in space` then costs F^2 + N^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from cogvid.interfaces.grid import Grid, Position
from cogvid.interfaces.mask import NOTHING, Pattern, Visibility, frame_order

# No tensor of more elements is made while all frames are evaluated at once; beyond, each pair of frames is by itself.
_LARGEST = 1 << 24

_ANDS = {
    torch.bitwise_and,
    torch.logical_and,
    Tensor.bitwise_and,
    Tensor.logical_and,
    Tensor.__and__,
    Tensor.__rand__,
}
# What may be asked of a product without computing it.
_METADATA = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim")} | {Tensor.size, Tensor.dim}


@dataclass(frozen=True, eq=False)
class CompactMask:
    """`visible(query, key) = kinds[query.frame, key.frame] >= 0 and spaces[that kind][query place, key place]`.

    Attributes:
        grid: of the mask.
        kinds: which of `spaces` holds between two frames, -1 for none; int64 (F, F), queries in rows.
        spaces: bool (C, N, N), each with something visible.
    """

    grid: Grid
    kinds: Tensor
    spaces: Tensor

    @cached_property
    def digest(self) -> str:
        """The same for equal masks."""
        bits = (self.kinds.numpy().tobytes(), self.spaces.numpy().tobytes())
        return sha256(repr(self.grid).encode() + b"".join(bits)).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompactMask) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def pairs(self) -> int:
        """Visible pairs of frame slots."""
        return int(self.counts[self.kinds[self.kinds >= 0]].sum())

    @property
    def counts(self) -> Tensor:
        """Visible pairs of places in each of `spaces`, int64 (C,)."""
        return self.spaces.sum((1, 2))

    def dense(self) -> Tensor:
        """The whole mask, bool (tokens, tokens)."""
        n = self.grid.frame_tokens
        blocks = torch.cat([self.spaces, torch.zeros(1, n, n, dtype=torch.bool)])[self.kinds]
        return blocks.transpose(1, 2).reshape(self.grid.tokens, self.grid.tokens)


def compact_mask(mask: Visibility) -> CompactMask:
    """Evaluate a mask; exact for any pattern, and fast for conjunctions of small parts."""
    return _compact(mask, _factors(mask))


def layer_masks(pattern: Pattern, grid: Grid, given: tuple[bool, ...], layers: int) -> list[CompactMask]:
    """The mask of each layer; equal ones are one object, since a pattern usually repeats after one or two layers.

    Args:
        pattern: of the backend.
        grid: of the sequences.
        given: which frames are given, (F,).
        layers: of the model.
    """
    masks: list[CompactMask] = []
    distinct: dict[CompactMask, CompactMask] = {}
    by_factors: dict[bytes, CompactMask] = {}
    for layer in range(layers):
        mask = Visibility(pattern, grid, given, layer)
        factors = _factors(mask)
        known = by_factors.get(factors.digest) if factors else None
        if known is None:
            found = _compact(mask, factors)
            known = distinct.setdefault(found, found)
        if factors:
            by_factors[factors.digest] = known
        masks.append(known)
    return masks


def _factors(mask: Visibility) -> _Factors | None:
    try:
        return _Factors(mask)
    except (_TooLarge, RuntimeError):
        # Too many coordinates at once, or an operation that cannot do with one axis for each, such as one in place.
        return None


def _compact(mask: Visibility, pattern: _Factors | None) -> CompactMask:
    grid, n = mask.grid, mask.grid.frame_tokens
    frames = torch.arange(grid.frames)
    order = frame_order(frames[:, None], frames[None, :], torch.tensor(mask.given))
    kinds = torch.full((grid.frames, grid.frames), -1)
    known: dict[tuple[bytes, ...], int] = {}
    spaces: list[Tensor] = []
    for q, k in (order != NOTHING).nonzero().tolist():
        if pattern is None:
            space = mask.pair(*_places(grid, q, k)).expand(n, n)
            key: tuple[bytes, ...] = (_digest(space),)
        else:
            # Between frames of which the pattern and the order say the same, the mask is the same.
            key = (*pattern.digests(q, k), bytes([int(order[q, k])]))
        if key not in known:
            if pattern is not None:
                space = mask.pair(*_places(grid, q, k), pattern.space(q, k))
            known[key] = len(spaces) if space.any() else -1
            if space.any():
                spaces.append(space)
        kinds[q, k] = known[key]
    return CompactMask(grid, kinds, torch.stack(spaces) if spaces else torch.zeros(0, n, n, dtype=torch.bool))


def _places(grid: Grid, query: int, key: int) -> tuple[Position, Position]:
    """All places of one frame as queries, (N, 1), and of another as keys, (1, N)."""
    places = torch.arange(grid.frame_tokens)
    own, other = (grid.position(frame * grid.frame_tokens + places) for frame in (query, key))
    return Position(*(axis[:, None] for axis in own)), Position(*(axis[None, :] for axis in other))


class _Factors:
    """The pattern of a mask between all its frames, as a conjunction of bool tensors.

    Raises:
        _TooLarge: one of them would be over too many coordinates.
    """

    def __init__(self, mask: Visibility) -> None:
        self.grid = mask.grid
        sides = (mask.grid.frames, mask.grid.height, mask.grid.width)
        # One of six axes for each coordinate: frame, row and column of queries, then of keys.
        axes = [
            torch.arange(side).view([-1 if i == axis else 1 for i in range(6)]) for axis, side in enumerate(2 * sides)
        ]
        with _Conjunctions() as mode:
            factors = mode.factors(mask.pattern(Position(*axes[:3]), Position(*axes[3:]), mask.layer))
        # Both frames first: (F or 1, F or 1, H or 1, W or 1, H or 1, W or 1).
        shaped = [factor.view((1,) * (6 - factor.dim()) + factor.shape) for factor in factors]
        self.factors = [factor.permute(0, 3, 1, 2, 4, 5).contiguous() for factor in shaped]
        self._digests = [[[_digest(pair) for pair in row] for row in factor] for factor in self.factors]

    @property
    def digest(self) -> bytes:
        """The same for equal patterns, if they were made of the same factors."""
        return sha256(b"".join(repr(f.shape).encode() + f.numpy().tobytes() for f in self.factors)).digest()

    def digests(self, q: int, k: int) -> tuple[bytes, ...]:
        """The same for two pairs of frames if every factor says the same between them."""
        return tuple(rows[q % len(rows)][k % len(rows[0])] for rows in self._digests)

    def space(self, q: int, k: int) -> Tensor:
        """The pattern between two frames, bool (N, N)."""
        product = reduce(torch.logical_and, (f[q % len(f), k % f.shape[1]] for f in self.factors))
        h, w, n = self.grid.height, self.grid.width, self.grid.frame_tokens
        return product.expand(h, w, h, w).reshape(n, n)


def _digest(x: Tensor) -> bytes:
    return sha256(x.numpy().tobytes()).digest()


class _TooLarge(Exception):
    """A pattern makes a tensor over more coordinates than can be held."""


class _Conjunctions(TorchFunctionMode):
    """Keeps `a & b` of bool tensors in factors, instead of computing it, until something else needs the product."""

    def __init__(self) -> None:
        super().__init__()
        # By id of the tensor that stands for the product; it is kept, so that its id stays its own.
        self._products: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def factors(self, x: Tensor) -> list[Tensor]:
        """What `x` is the conjunction of."""
        return self._products[id(x)][1] if id(x) in self._products else [x]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _METADATA:
            return func(*args, **(kwargs or {}))
        if func in _ANDS and not kwargs and all(isinstance(x, Tensor) and x.dtype is torch.bool for x in args):
            product = torch.empty((), dtype=torch.bool).expand(torch.broadcast_shapes(*(x.shape for x in args)))
            self._products[id(product)] = (product, [factor for x in args for factor in self.factors(x)])
            return product
        args, kwargs = tree_map(self._multiplied, (args, kwargs or {}))
        self._check([x.shape for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)])
        return func(*args, **kwargs)

    def _multiplied(self, x: Any) -> Any:
        if id(x) not in self._products:
            return x
        _, factors = self._products[id(x)]
        self._check([factor.shape for factor in factors])
        # In its place: an operation in place on the product is then seen by later ones.
        factors[:] = [reduce(torch.logical_and, factors)]
        return factors[0]

    def _check(self, shapes: list[torch.Size]) -> None:
        try:
            size = torch.broadcast_shapes(*shapes).numel()
        except RuntimeError:  # no broadcast, such as a look-up in a table
            return
        if size > _LARGEST:
            raise _TooLarge
