"""Decode along schedules: one slot at a time, or as many as the pattern lets be computed together."""

from __future__ import annotations

from torch import Tensor

import cogvid
from cogvid.generation.schedule import Along, sequential_schedule
from cogvid.interfaces.decoding import Dependencies


class Sequential(Along):
    """One slot a pass, frame after frame in raster order: what every exact decoding agrees with."""

    def schedule(self, needs: Dependencies) -> Tensor:
        """See `Along`."""
        return sequential_schedule(needs.grid, needs.known)


class Scheduled(Along):
    """The shortest schedule of the pattern: a slot as soon as all that it sees is final, or in the same pass."""


@cogvid.hookimpl
def register_decodings() -> dict[str, type]:
    """The decodings `sequential` and `scheduled`."""
    return {"sequential": Sequential, "scheduled": Scheduled}
