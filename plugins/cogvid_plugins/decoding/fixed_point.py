"""Decode by fixed point: compute tokens from guesses of those before them, again where a guess was wrong.

Each token is a function of those before it, its random number being its own. So whatever was computed from the right
tokens is right. A pass computes what the shortest schedule would and, behind it in each frame, a window of slots from
guesses of their inputs. Known for images as predictive sampling (Wiggers and Hoogeboom, arXiv 2002.09928).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cogvid
from cogvid.config.ranges import at_least, option
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Rows
from cogvid_plugins.decoding.drafts import Board, Draft

# Rows that cost as much as reading the keys of one frame of one sequence.
_KEYS = 1
# Of how often guesses were right, the share that a pass forgets.
_FORGOTTEN = 1 / 64
# What guessing at all adds to a pass, of what it takes without any row.
_GUESSING = 0.2


class FixedPoint(Decoding):
    """Exact, in far fewer passes where guesses are good, and hardly more work where none is."""

    @dataclass
    class Config:
        """How far ahead of what is final, and from which guesses.

        Attributes:
            window: slots of a frame; 0 chooses as many as are worth it, by how many became final so far.
            draft: where a token that was not computed from right ones is guessed from.
        """

        window: int = option(0, at_least(0))
        draft: Draft = Draft.auto

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        return _Windows(clips, self.config)


class _Windows(Decoder):
    """In each frame, the slots behind those that are final, as far as the others could be final with them.

    Attributes:
        finished: how many slots of each frame are final, int64 (B, F).
        right: how many tokens of each frame are those that follow from the tokens before them, int64 (B, F).
        hits, tries: rows that became final, and all whose row before did, of late, by how far ahead they were.
    """

    def __init__(self, clips: Clips, config: FixedPoint.Config) -> None:
        self.clips, self.window, self.n = clips, config.window, clips.needs.grid.frame_tokens
        self.board = Board(clips.needs, clips.tape[..., 1:], config.draft)
        self.finished = (torch.tensor(clips.needs.known).long() * self.n).repeat(len(clips.tape), 1)
        self.right = self.finished
        self.hits, self.tries = torch.zeros(self.n), torch.zeros(self.n)
        self.sample = self.frame = self.place = self.within = self.read = torch.empty(0, dtype=torch.long)

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        # Frame after frame, and all sequences in each.
        frame, sample = (self.finished < self.n).T.nonzero(as_tuple=True)
        if not len(frame):
            return None
        stop = self.clips.needs.final((self.finished + self._worthwhile()).clamp(max=self.n))
        ahead = self.finished[sample, frame][:, None] + torch.arange(int((stop - self.finished).max()))
        block, self.within = (ahead < stop[sample, frame][:, None]).nonzero(as_tuple=True)
        self.sample, self.frame, self.place = sample[block], frame[block], ahead[block, self.within]
        self.read = self.board.read(self.sample, self.frame, self.place - 1)
        guessed = self.place > self.right[self.sample, self.frame]
        if guessed.any():
            where = self.sample[guessed], self.frame[guessed], self.place[guessed]
            guess = self.board.guess(where[0], where[1], where[2] - 1, self.right[where[:2]])
            self.read[guessed] = guess
            device = self.clips.tape.device
            self.clips.tape[tuple(x.to(device) for x in where)] = guess.to(device)
        return Rows(self.sample, self.frame * self.n + self.place)

    def final(self) -> Tensor:
        """See `Decoder`."""
        tokens = self.clips.written()
        self.board.write(self.sample, self.frame, self.place, tokens)
        begins = self.within == 0
        # A row is right if it and those before it in its block have read what the row before them wrote.
        wrong = (~begins & (self.read != tokens.roll(1))).cumsum(0)
        right = wrong == torch.where(begins, wrong, 0).cummax(0).values
        self.right = self.finished.index_put((self.sample, self.frame), right.long(), accumulate=True)
        self.finished = self.clips.needs.final(self.right)
        final = self.place < self.finished[self.sample, self.frame]
        tried = ~begins & final.roll(1)
        for count, rows in ((self.hits, tried & final), (self.tries, tried)):
            count.mul_(1 - _FORGOTTEN).add_(self.within[rows].bincount(minlength=self.n))
        return final

    def _worthwhile(self) -> int:
        """How many slots of each frame to compute."""
        if self.window:
            return self.window
        ready = int((self.clips.needs.final((self.finished + 1).clamp(max=self.n)) > self.finished).sum())
        # As if three of four had been right so far; where few were tried, about as many as anywhere.
        usual = (self.hits.sum() + 3) / (self.tries.sum() + 4)
        chance = (self.hits + 4 * usual) / (self.tries + 4)
        chance[0] = 1  # its input is final
        free = self.clips.free_rows / ready
        rows = torch.arange(1, self.n + 1) + _KEYS + free
        rows[1:] += _GUESSING * free
        return int((chance.cumprod(0).cumsum(0) / rows).argmax()) + 1


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decoding `fixed_point`."""
    return {"fixed_point": FixedPoint}
