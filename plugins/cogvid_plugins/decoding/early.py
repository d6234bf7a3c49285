"""Begin rows, or frames, before those that they read have ended: approximate.

After DiagD (Ye et al., arXiv 2503.14070) and ZipAR (He et al., arXiv 2412.04062).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import cogvid
from cogvid.config.ranges import at_least, option
from cogvid.generation.schedule import Along
from cogvid.interfaces.decoding import Clips, Decoder, Dependencies, Rows


class Early(Along):
    """Along a schedule whose rows may begin early: what a slot sees and was not computed yet is hidden from it.

    The first slot of such a row reads the newest token of the row above in place of its last.
    """

    exact = False

    def start(self, clips: Clips) -> Decoder:
        """See `Decoding`."""
        return _Guessing(super().start(clips), clips)


class Diagonal(Early):
    """Approximate, after DiagD: token (row, column) in step `column + row * stride`, whatever the pattern lets it see.

    What is not there by then is hidden: ends of rows above, and of the frames before. The paper's training for this
    order is left out.
    """

    @dataclass
    class Config:
        """The slope of the diagonals.

        Attributes:
            stride: steps from a row to the next; as many as a row has columns, or more, give the tokens of
                `sequential` where `delay` is not set.
            delay: steps from a generated frame to the next; by default those of a frame's rows, as if frames were
                stacked.
        """

        stride: int = option(1, at_least(1))
        delay: int | None = option(None, at_least(0))

    def schedule(self, needs: Dependencies) -> Tensor:
        """See `Along`."""
        grid, stride = needs.grid, min(self.config.stride, needs.grid.width)
        delay = grid.height * stride if self.config.delay is None else self.config.delay
        # A frame that began after the end of the one before would leave steps empty.
        delay = min(delay, (grid.height - 1) * stride + grid.width)
        frame = (torch.arange(grid.height)[:, None] * stride + torch.arange(grid.width)).flatten()
        generated = ~torch.tensor(needs.known)
        first = (generated.cumsum(0) - 1) * delay
        return torch.where(generated[:, None], first[:, None] + frame, -1)


class EarlyRows(Early):
    """Approximate, after ZipAR: a slot waits for that `window` columns on in the row above.

    The rest of the row above is hidden from it; for what it sees of other frames it waits as in `scheduled`. The
    paper's windows that adapt by rejection are left out.
    """

    @dataclass
    class Config:
        """How early a row begins.

        Attributes:
            window: columns that the row above is ahead; as many as a row has, or more, give the tokens of `scheduled`.
        """

        window: int = option(4, at_least(1))

    def schedule(self, needs: Dependencies) -> Tensor:
        """See `Along`."""
        grid = needs.grid
        columns = torch.arange(grid.width)
        ahead = (columns + self.config.window - 1).clamp(max=grid.width - 1)
        steps = torch.full((grid.frames, grid.frame_tokens), -1)
        # When all of a frame up to a place is there; one more place for slots that see nothing of it.
        there = torch.full((grid.frames, grid.frame_tokens + 1), -1)
        for t in (t for t, known in enumerate(needs.known) if not known):
            rows: list[Tensor] = []
            for earliest in there[torch.arange(grid.frames), needs.reach[t]].amax(1).clamp(min=0).split(grid.width):
                if rows:
                    earliest = torch.maximum(earliest, rows[-1][ahead] + 1)
                rows.append((earliest - columns).cummax(0).values + columns)
            steps[t] = torch.cat(rows)
            there[t, :-1] = steps[t].cummax(0).values
        return steps


class _Guessing(Decoder):
    """Follows a decoder, and guesses what rows that begin early read.

    Attributes:
        done: the slots that are computed, bool (F, height, width).
    """

    def __init__(self, decoder: Decoder, clips: Clips) -> None:
        grid = clips.needs.grid
        self.decoder, self.tape = decoder, clips.tape
        self.done = torch.zeros(grid.frames, grid.height, grid.width, dtype=torch.bool)

    def next_rows(self) -> Rows | None:
        """See `Decoder`."""
        rows = self.decoder.next_rows()
        if rows is None:
            return None
        height, width = self.done.shape[1:]
        slots = rows.slots[(rows.slots % width == 0) & (rows.slots % (height * width) > 0)].unique()
        frame, place = slots // (height * width), slots % (height * width)
        newest = place - width + self.done[frame, place // width - 1].sum(1)
        self.tape[:, frame, place] = self.tape[:, frame, newest]
        self.done.view(-1)[rows.slots] = True
        return rows

    def final(self) -> Tensor:
        """See `Decoder`."""
        return self.decoder.final()


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decodings `diagonal` and `early_rows`."""
    return {"diagonal": Diagonal, "early_rows": EarlyRows}
