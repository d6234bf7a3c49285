"""What one step of a schedule computes and reads.

A step is S rows, each a slot of every sample; where samples have different schedules, a row can be idle for some of
them. Shapes as in `cogvid.interfaces.grid`, B samples with guidance's copies.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OwnFrame:
    """What some rows of a step see of their own frames, in the base channel.

    Attributes:
        rows: which of the step's, s of them.
        frames: theirs in the cache: a slice of it, or numbers of (frame, sample), (s * B,).
        count: keys of a row, those of the text first.
        scores: what is added to their scores, -inf to hide them; (s * B * H, 1, count).
    """

    rows: slice
    frames: slice | Tensor
    count: int
    scores: Tensor


@dataclass(frozen=True)
class OnePiece:
    """What one row of a step sees in a layer of the plus channel, text and frame keys in one piece of the cache.

    Attributes:
        keys: the piece.
        scores: what is added to their scores, -inf to hide them; (B * H, 1, T + count).
    """

    keys: slice
    scores: Tensor


@dataclass(frozen=True)
class Gathered:
    """What the rows of a step see in a layer of the plus channel, wherever it stands.

    Attributes:
        places: where the frame keys stand in the flat cache, (2 * B * H * S * count,).
        text_scores: what is added to the scores of the text, (B * H, 1, T).
        scores: what is added to those of the frame keys, -inf to hide them; (B * H * S, 1, count).
    """

    places: Tensor
    text_scores: Tensor
    scores: Tensor


@dataclass(frozen=True)
class PlusChannel:
    """One layer of the plus channel in a step.

    Attributes:
        kept: where keys and values of the rows are kept in the flat cache, int64 (2 * B * H * S,).
        seen: what is seen, by all rows or by each.
    """

    kept: Tensor
    seen: Gathered | tuple[OnePiece, ...]


@dataclass(frozen=True)
class Step:
    """What one step computes and reads.

    Attributes:
        slots: for the model, int64 (S,) or (B, S); idle rows say 0.
        inputs, outputs: where tokens are read and written on the tape of each sample, int64 (1 or samples, S).
        tokens: slots that are generated; with one schedule for all samples, those of one sample.
        base_kept: where keys and values of the rows are kept in the flat cache, int64 (2 * B * H * S,).
        base: what is seen there, by parts of the rows.
        plus: by layers.
    """

    slots: Tensor
    inputs: Tensor
    outputs: Tensor
    tokens: int
    base_kept: Tensor
    base: tuple[OwnFrame, ...]
    plus: tuple[PlusChannel, ...]
