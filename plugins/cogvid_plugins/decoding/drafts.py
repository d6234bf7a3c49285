"""Guesses of tokens that are not computed yet: what stands at another place of the clip, as it fits best.

After prompt lookup decoding (Saxena, 2023), which continues a text as it went on where its last words stood before; in
a video, the last words are the tokens around a place, and mostly stand in the frame before, moved a little.
"""

from __future__ import annotations

from enum import Enum
from itertools import pairwise, product

import torch
from torch import Tensor, nn

from cogvid.interfaces.decoding import Dependencies

# How far a picture moves from frame to frame, in tokens.
_REACH = 2
# The neighbours of a place that come before it, as (rows, columns), and what each is worth as evidence.
_NEIGHBOURS = {(0, -1): 4, (-1, 0): 3, (-1, -1): 2, (-1, 1): 2, (0, -2): 1}


class Draft(Enum):
    """Where a guess may stand: `auto` takes what was computed for it last where the frames around are given, and else
    what moved. Those are: the frame before and a later one that is given, with what moved between them; the same place
    there; the same place in the frame before; what was computed for it last."""

    auto = "auto"
    moved = "moved"
    nearest_given = "nearest_given"
    previous_frame = "previous_frame"
    previous_pass = "previous_pass"


_MOVES = sorted(product(range(-_REACH, _REACH + 1), repeat=2), key=lambda move: abs(move[0]) + abs(move[1]))
# As (frames, rows, columns) from its place; of equally good ones the first.
_SOURCES: dict[Draft, list[tuple[int, int, int]]] = {
    Draft.moved: [(frame, row, column) for row, column in _MOVES for frame in (-1, 1)],
    Draft.nearest_given: [(-1, 0, 0), (1, 0, 0)],
    Draft.previous_frame: [(-1, 0, 0)],
    Draft.previous_pass: [(0, 0, 0)],
}
# In its own frame, where no other has one, as in a first frame.
_BESIDE = [(0, -1, 0), (0, 0, -1), (0, -1, 1), (0, -1, -1)]


class Board:
    """The tokens of all frames on the CPU, right and guessed, to look guesses up.

    Args:
        needs: of the sequences.
        tokens: int64 (B, F, N), of which the known frames count.
        draft: where a guess may stand.
    """

    def __init__(self, needs: Dependencies, tokens: Tensor, draft: Draft) -> None:
        grid, known = needs.grid, needs.known
        self.width, self.frames = grid.width, grid.frames
        self._rows, self._columns = grid.height + 2 * _REACH, grid.width + 2 * _REACH
        tokens = tokens.masked_fill(~torch.tensor(known, device=tokens.device)[:, None], -1).cpu()
        for frame in range(1, grid.frames):
            if not known[frame]:
                tokens[:, frame] = tokens[:, frame - 1]
        # Around each picture, and before and behind the clip, stands what is no token.
        pictures = tokens.unflatten(2, (grid.height, grid.width))
        self.tokens = nn.functional.pad(pictures, (_REACH,) * 4 + (1, 1), value=-1).flatten()
        if draft is Draft.auto:
            between = any(given and not own for own, given in pairwise(known))
            draft = Draft.previous_pass if between else Draft.moved
        sources = [*_SOURCES[draft], *_BESIDE]
        self._sources = torch.tensor([self._offset(*source) for source in sources])
        self._neighbours = torch.tensor([self._offset(0, *place) for place in _NEIGHBOURS])
        self._steps = torch.tensor([row * grid.width + column for row, column in _NEIGHBOURS])
        self._worth = torch.tensor(list(_NEIGHBOURS.values()), dtype=torch.float)
        # Less than any evidence, so that it decides between equals; a later frame counts only where it is known.
        given_next = torch.tensor([*known[1:], False])[:, None]
        later = torch.tensor([frames > 0 for frames, *_ in sources]) & ~given_next
        self._after = torch.where(later, torch.inf, torch.arange(len(sources)) / (2 * len(sources)))

    def read(self, sample: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        """Tokens on the board; all int64 (R,) on the CPU."""
        return self.tokens[self._at(sample, frame, place)]

    def write(self, sample: Tensor, frame: Tensor, place: Tensor, tokens: Tensor) -> None:
        """Put tokens on the board; all int64 (R,) on the CPU."""
        self.tokens[self._at(sample, frame, place)] = tokens

    def guess(self, sample: Tensor, frame: Tensor, place: Tensor, right: Tensor) -> Tensor:
        """Guesses of tokens, int64 (R,); they fit best what is right around them.

        Args:
            sample, frame, place: of the tokens, int64 (R,).
            right: how many tokens of the frame are right already, int64 (R,).
        """
        here = self._at(sample, frame, place)
        # A token that is guessed itself is no evidence.
        there = place[..., None] + self._steps < right[..., None]
        around = torch.where(there, self.tokens[here[..., None] + self._neighbours], -2)
        candidates = here[..., None] + self._sources
        fits = self.tokens[candidates[..., None] + self._neighbours] == around[..., None, :]
        token = self.tokens[candidates]
        score = (fits.float() @ self._worth - self._after[frame]).masked_fill(token < 0, -torch.inf)
        return token.gather(-1, score.argmax(-1, keepdim=True))[..., 0].clamp(min=0)

    def _at(self, sample: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        picture = (sample * (self.frames + 2) + frame + 1) * self._rows
        return (picture + place // self.width + _REACH) * self._columns + place % self.width + _REACH

    def _offset(self, frames: int, rows: int, columns: int) -> int:
        return (frames * self._rows + rows) * self._columns + columns
