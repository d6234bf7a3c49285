"""Whether a token source keeps the promises of its interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cogvid.data.workers import in_order
from cogvid.interfaces.token_source import TokenSource
from cogvid.testing.findings import Findings

# Sequences that are looked at, spread over all.
_SEQUENCES = 16
CHECKS = ("split", "shape", "tokens", "same", "workers", "fingerprint", "nothing")


def check(make: Callable[[], TokenSource], found: Findings) -> None:
    """Hold a token source to its interface.

    The checks, by name:

    * `split`: there are sequences to train on; those that are held out are others, and no more.
    * `shape`: a sequence is text int64, mask bool and codes int64, as long as the source's `shape` says.
    * `tokens`: codes are from 0 to those that there are; text tokens are from 0 on; each sequence has some text.
    * `same`: a sequence is the same one whenever it is read.
    * `workers`: and in whichever process.
    * `fingerprint`: it is a text, the same one before and after, and of another such source.
    * `nothing`: see `data_source_conformance`.

    Args:
        make: of the source.
        found: is told of failures.
    """
    one, other = make(), make()
    with found.trying("split", "the source"):
        one.check()
    if found:
        return
    before, count, held_out = one.fingerprint(), len(one), one.held_out
    if not count or (held_out and min(held_out) < count):
        found.add("split", "the source", f"{count} sequences to train on, and held out are {held_out}")
        return
    numbers = [*range(count), *held_out][:: max(1, (count + len(held_out)) // _SEQUENCES)]
    sequences: dict[int, Sequence[Any]] = {}
    for number in numbers:
        with found.trying("shape", f"sequence {number}"):
            sequence = one.sequence(number)
            sequences[number] = [part.copy() for part in sequence]
            _check_sequence(one, number, sequence, found)
    for number in reversed([*sequences]):
        with found.trying("same", f"sequence {number}"):
            if not _equal(sequences[number], other.sequence(number)):
                found.add("same", f"sequence {number}", "another one when it is read again")
    with found.trying("workers", "the source"):
        for number, drawn in zip(sequences, in_order(other.sequence, [*sequences], workers=2), strict=True):
            if not _equal(sequences[number], drawn):
                found.add("workers", f"sequence {number}", "another one in another process")
    if not isinstance(before, str) or {one.fingerprint(), other.fingerprint(), make().fingerprint()} != {before}:
        found.add("fingerprint", "the source", f"{before!r} is no text, or does not stay what it is")


def _check_sequence(source: TokenSource, number: int, sequence: Sequence[Any], found: Findings) -> None:
    shape, case = source.shape, f"sequence {number}"
    wanted = ((np.int64, (shape.text,)), (np.bool_, (shape.text,)), (np.int64, (shape.frames, shape.frame_tokens)))
    names = ("text", "mask", "codes")
    for name, part, (dtype, size) in zip(names, sequence, wanted, strict=True):
        if part.dtype != dtype or part.shape != size:
            problem = f"its {name} is {part.dtype} {part.shape}, not {np.dtype(dtype)} {size}"
            found.add("shape", case, problem)
            return
    text, there, codes = sequence
    if not there.any():
        found.add("tokens", case, "it has no text")
    elif text[there].min() < 0:
        found.add("tokens", case, f"it has the text token {text[there].min()}")
    if codes.min() < 0 or codes.max() >= shape.codes:
        found.add("tokens", case, f"its codes are from {codes.min()} to {codes.max()}, and there are {shape.codes}")


def _equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
