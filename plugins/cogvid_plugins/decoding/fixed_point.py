"""Decode by fixed point: compute tokens from guesses of those before them, again where a guess was wrong.

Each token is a function of those before it, its random number being its own. So whatever was computed from the right
tokens is right, and a pass computes, beside what the shortest schedule would, a window of slots behind it in each frame,
from guesses of their inputs. Known for images as predictive sampling (Wiggers and Hoogeboom, arXiv 2002.09928).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cogvid
from cogvid.config.ranges import at_least, option
from cogvid.interfaces.decoding import Clips, Decoder, Decoding, Rows


class FixedPoint(Decoding):
    """Exact, in far fewer passes where guesses are good."""

    @dataclass
    class Config:
        """How far ahead of what is final, and from which guesses.

        Attributes:
            window: slots of a frame.
            draft: the guess of a token that was not computed yet.
        """

        window: int = option(8, at_least(1))
        draft: str = "previous_frame"

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        return _Windows(clips, self.config)


class _Windows(Decoder):
    """In each frame, the slots behind those that are final, as far as the others could be final with them.

    Attributes:
        finished: how many slots of each frame are final, int64 (B, F).
        computed: how many were computed, final or not, int64 (B, F).
    """

    def __init__(self, clips: Clips, config: FixedPoint.Config) -> None:
        self.clips, self.config = clips, config
        self.n = clips.needs.grid.frame_tokens
        known = torch.tensor(clips.needs.known)
        self.finished = (known.long() * self.n).repeat(len(clips.tape), 1)
        self.computed = self.finished.clone()
        for frame, there in enumerate(clips.needs.known[1:], 1):
            if not there:
                clips.tape[:, frame] = clips.tape[:, frame - 1]
        self.rows = self.block = self.place = torch.empty(0, dtype=torch.long)

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        window = (self.finished + self.config.window).clamp(max=self.n)
        stop = self.clips.needs.final(window)
        import os
        if os.environ.get("POL") == "D": stop = window
        if os.environ.get("POL") == "E": 
            lag=int(os.environ["LAG"])
            stop = torch.minimum(window, torch.cat([window[:,:1], (window[:,:-1]+lag)],1))
        # Frame after frame, and all sequences in each: (F, B).
        first, counts = self.finished.T.flatten(), (stop - self.finished).T.flatten()
        self.block = torch.arange(len(counts)).repeat_interleave(counts)
        if not len(self.block):
            return None
        self.within = torch.arange(len(self.block)) - (counts.cumsum(0) - counts)[self.block]
        self.place = first[self.block] + self.within
        frame, sample = self.block // len(stop), self.block % len(stop)
        fresh = (self.place > self.computed[sample, frame])
        import os
        if os.environ.get("POL") == "B":
            fresh = self.place > self.finished[sample, frame]
        if os.environ.get("POL") == "C":
            fresh = self.place > self.finished[sample, frame] + 1
        if fresh.any():
            self._guess(sample[fresh], frame[fresh], self.place[fresh])
        self.computed = torch.maximum(self.computed, stop)
        return Rows(sample, frame * self.n + self.place)

    def final(self) -> Tensor:
        """See `Decoder`."""
        wrong = (~self.clips.unchanged()).long()
        # A row is right with all rows before it in its block.
        before = wrong.cumsum(0)
        start = before - wrong
        first = torch.where(self.within == 0, start, 0)
        at = first.cummax(0).values
        right = (before == at)
        finished = self.finished.T.flatten().index_add(0, self.block, right.long())
        self.finished = self.clips.needs.final(finished.view(-1, len(self.finished)).T)
        return self.place < self.finished.T.flatten()[self.block]

    def _guess(self, sample: Tensor, frame: Tensor, place: Tensor) -> None:
        tape = self.clips.tape
        width = self.clips.needs.grid.width
        first = (frame == 0)
        above = tape[sample, frame, (place - width).clamp(min=0)]
        before = tape[sample, frame, place - 1]
        tape[sample, frame, place] = torch.where(first, torch.where(place > width, above, before), tape[sample, frame - 1, place])


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decoding `fixed_point`."""
    return {"fixed_point": FixedPoint}
