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
from cogvid_plugins.decoding.drafts import CERTAIN, Board, Draft

# Slots ahead in a frame, at most, where the window is chosen.
_FARTHEST = 16


class FixedPoint(Decoding):
    """Exact, in far fewer passes where guesses are good, and hardly more work where none is."""

    @dataclass
    class Config:
        """How far ahead of what is final, and from which guesses.

        Attributes:
            window: slots of a frame; 0 chooses as many as are worth it, by how often such guesses were right so far.
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
        hits, tries: guesses that were right, and all that were tried, by how well they fitted; most, to begin with.
        kept, computed: mean rows of a pass that were final, and all of them.
    """

    def __init__(self, clips: Clips, config: FixedPoint.Config) -> None:
        self.clips, self.window, self.n = clips, config.window, clips.needs.grid.frame_tokens
        self.board = Board(clips.needs, clips.tape[..., 1:], config.draft)
        self.finished = (torch.tensor(clips.needs.known).long() * self.n).repeat(len(clips.tape), 1)
        self.right = self.finished
        self.hits, self.tries = torch.full((CERTAIN + 1,), 3.0), torch.full((CERTAIN + 1,), 4.0)
        self.kept, self.computed = 1.0, 2.0
        self.sample = self.frame = self.place = self.within = self.evidence = torch.empty(0, dtype=torch.long)

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        # Frame after frame, and all sequences in each.
        frame, sample = (self.finished < self.n).T.nonzero(as_tuple=True)
        if not len(frame):
            return None
        first, right = self.finished[sample, frame][:, None], self.right[sample, frame][:, None]
        ahead = first + torch.arange(self.window or _FARTHEST)
        guess, evidence = self.board.guess(sample[:, None], frame[:, None], (ahead - 1).clamp(0, self.n - 1), right)
        evidence.masked_fill_(ahead <= right, CERTAIN)
        stop = self.finished.clone()
        stop[sample, frame] = first[:, 0] + self._worthwhile(evidence)
        stop = self.clips.needs.final(stop.clamp(max=self.n))
        block, self.within = (ahead < stop[sample, frame][:, None]).nonzero(as_tuple=True)
        self.sample, self.frame, self.place = sample[block], frame[block], ahead[block, self.within]
        self.evidence = evidence[block, self.within]
        guessed = self.evidence < CERTAIN
        where = (x[guessed].to(self.clips.tape.device) for x in (self.sample, self.frame, self.place))
        self.clips.tape[tuple(where)] = guess[block, self.within][guessed].to(self.clips.tape.device)
        return Rows(self.sample, self.frame * self.n + self.place)

    def final(self) -> Tensor:
        """See `Decoder`."""
        wrong = (~self.clips.unchanged()).long()
        # A row is right with all rows before it in its block.
        so_far = wrong.cumsum(0)
        before = torch.where(self.within == 0, so_far - wrong, 0).cummax(0).values
        right, tried = so_far == before, (so_far - wrong == before) & (self.within > 0)
        self.tries.index_add_(0, self.evidence, tried.float())
        self.hits.index_add_(0, self.evidence, (tried & right).float())
        where = (x.to(self.clips.tape.device) for x in (self.sample, self.frame, self.place + 1))
        self.board.write(self.sample, self.frame, self.place, self.clips.tape[tuple(where)].cpu())
        self.right = self.finished.index_put((self.sample, self.frame), right.long(), accumulate=True)
        self.finished = self.clips.needs.final(self.right)
        final = self.place < self.finished[self.sample, self.frame]
        self.kept += (int(final.sum()) - self.kept) / 8
        self.computed += (len(final) - self.computed) / 8
        return final

    def _worthwhile(self, evidence: Tensor) -> Tensor:
        """How many of the next slots (A, W) to compute, at least one, int64 (A,)."""
        if self.window:
            return torch.full(evidence.shape[:1], self.window)
        chance = (self.hits / self.tries)[evidence]
        chance[:, 0] = 1  # its input is final
        # One more row pays if it is final more often than a row is on average, the pass itself counted as rows.
        return (chance.cumprod(1) >= self.kept / (self.computed + self.clips.free_rows)).sum(1)


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decoding `fixed_point`."""
    return {"fixed_point": FixedPoint}
