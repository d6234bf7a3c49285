"""Decodings: which tokens the next pass through the model computes, and which are final after it.

Every random number of a token is a function of (seed, clip, frame, place). So a clip is the one solution of x = f(x),
where f computes each token from those that its slot sees, and each needs only earlier ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cogvid.interfaces.component import Component
from cogvid.interfaces.grid import Grid


@dataclass(frozen=True)
class Rows:
    """What one pass computes: a slot of a sequence in each row. Slot i of a frame reads token i - 1 and makes token i.

    Attributes:
        samples: which sequence of the batch, int64 (R,) on the CPU.
        slots: the flat slot `frame * N + place`, int64 (R,) on the CPU; no sequence has one twice.
    """

    samples: Tensor
    slots: Tensor


class Dependencies:
    """What must be final before a token can be.

    Args:
        grid: of the sequences.
        known: which frames are known before the first pass, (F,).
        reach: the last place of another frame that a slot, or one before it in its frame, sees in any layer; -1 where
            there is none, and in known frames. int64 (F, N, F).
    """

    def __init__(self, grid: Grid, known: tuple[bool, ...], reach: Tensor) -> None:
        self.grid, self.known, self.reach = grid, known, reach
        # How many slots of a frame can be final where so many of another are, (F, F, N + 1).
        counts = torch.arange(grid.frame_tokens + 1).expand(grid.frames, grid.frames, -1).contiguous()
        self._allowed = torch.searchsorted(reach.movedim(1, 2).contiguous(), counts)
        self._waiting = (reach >= 0).flatten(1).any(1).nonzero()[:, 0].tolist()
        self._frames = torch.arange(grid.frames)

    def final(self, right: Tensor) -> Tensor:
        """How many slots of each frame are final, counted from its first.

        Args:
            right: int64 (B, F), those that read the right token, and so do all before them.

        Returns:
            int64 (B, F), at most as many: a slot is final only with all that it sees.
        """
        final = right.clone()
        for t in self._waiting:  # in the causal order: a frame sees earlier ones alone
            final[:, t] = torch.minimum(final[:, t], self._allowed[t][self._frames, final].amin(1))
        return final


class Clips:
    """A batch of sequences while they are decoded: a decoder reads it, and writes guesses to its tape.

    Args:
        needs: what their tokens wait for.
        tape: int64 (B, F, N + 1), in each frame the begin-of-image token, then the tokens; whatever is computed stands
            there at once, final or not. Slot i reads place i.
        free_rows: rows that a pass computes in about the time that it takes without any.
    """

    def __init__(self, needs: Dependencies, tape: Tensor, free_rows: float = 0.0) -> None:
        self.needs, self.tape, self.free_rows = needs, tape, free_rows
        self._flat = tape.view(-1)
        self._places = torch.empty(0, dtype=torch.long)

    def read(self, rows: Rows) -> Tensor:
        """What rows read, int64 (R,)."""
        grid = self.needs.grid
        places = rows.samples * (grid.tokens + grid.frames) + rows.slots + rows.slots // grid.frame_tokens
        self._places = places.to(self.tape.device)
        return self._flat[self._places]

    def write(self, tokens: Tensor) -> None:
        """The tokens (R,) of the rows that were read last."""
        self._flat[self._places + 1] = tokens

    def written(self) -> Tensor:
        """What was written last, int64 (R,) on the CPU."""
        return self._flat[self._places + 1].cpu()


class Decoder(ABC):
    """Decodes one batch of sequences."""

    @abstractmethod
    def next_rows(self) -> Rows | None:
        """What the next pass computes; None when every token is final."""

    @abstractmethod
    def final(self) -> Tensor:
        """Which rows of the pass just computed have final tokens, bool (R,) on the CPU.

        What is final is not computed again.
        """


class Decoding(Component, ABC):
    """What to compute in the next pass, and what is final after it.

    Attributes:
        exact: whether its tokens are those of one slot at a time.
    """

    exact: ClassVar[bool] = True

    @abstractmethod
    def start(self, clips: Clips) -> Decoder:
        """A decoder for some sequences, of whose tokens none is computed yet."""
