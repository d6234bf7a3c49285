"""Two processes that each see a part of what a metric scores, in one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cogvid.interfaces.metric import VideoMetric


def join(mine: VideoMetric, theirs: VideoMetric) -> VideoMetric:
    """Let a metric gather, where it computes, what another process would send, as torchmetrics does.

    Args:
        mine: is returned.
        theirs: of the other process; it has seen what it is to see.

    Raises:
        TypeError: one process would send what the other cannot receive; when `mine` computes.
    """
    sent: list[Tensor] = []

    def record(tensor: Tensor, group: Any = None) -> list[Tensor]:
        sent.append(tensor)
        return [tensor]

    theirs.sync(dist_sync_fn=record, distributed_available=lambda: True)
    arriving = iter(sent)

    def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
        other = next(arriving)
        if (tensor.dtype, tensor.ndim) != (other.dtype, other.ndim):
            kinds = " and ".join(f"{each.dtype} of {each.ndim} dimensions" for each in (tensor, other))
            raise TypeError(f"processes would gather {kinds}")
        return [tensor, other]

    mine.dist_sync_fn, mine.distributed_available_fn = gather, lambda: True
    return mine
