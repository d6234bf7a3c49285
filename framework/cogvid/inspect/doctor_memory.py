"""Memory of a process by strategy, from what one step keeps: who has what whole, and who a share of it."""

from __future__ import annotations

from dataclasses import dataclass

from cogvid.inspect.doctor_step import ACTIVATIONS, FORWARD, GRADIENTS, OPTIMISER, UPDATE, WEIGHTS, Step

ONE, DDP, FSDP2 = "one process", "ddp", "fsdp2"
GATHERED, AVERAGE, KEPT, PROCESS = "gathered", "average", "kept", "process"
FLOAT = 4  # bytes of a weight
# Blocks whose weights are whole at a time: the one that runs, the next, and the buffer that they arrive in.
_WHOLE = 3
# A checkpoint's file is put together in memory, tensors and then all of it, and holds so many bytes at most.
CHECKPOINT, _COPIES, _FILE = "checkpoint", 2, 2**30


@dataclass(frozen=True)
class Sizes:
    """Numbers of a network's parameters.

    Attributes:
        all, trained: of the network.
        block, block_trained: of the largest block.
        rest, rest_trained: outside the blocks, which is gathered for as long as a step computes.
    """

    all: int
    trained: int
    block: int = 0
    block_trained: int = 0
    rest: int = 0
    rest_trained: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the moment when it has most.

    Attributes:
        strategy: one process, ddp or fsdp2.
        processes: of the job.
        moment: the part of a step, or the writing of a checkpoint.
        bytes: weights, gradients, optimiser, activations (workspace among them), gathered (what fsdp2 makes whole
            for a while), average (`stages.*.ema`), kept (beside the training, such as models for previews), process
            (what it takes before it has a tensor).
    """

    strategy: str
    processes: int
    moment: str
    bytes: dict[str, float]

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(self.bytes.values())


def memory(
    step: Step,
    sizes: Sizes,
    strategy: str,
    processes: int,
    *,
    reshard: bool,
    ema: bool,
    kept: float,
    process: float,
    host: bool,
) -> Memory:
    """The memory of one process.

    Args:
        step: of one process without others, on the share of the batch that it has among `processes`.
        sizes: of the network.
        strategy: one process, ddp or fsdp2.
        processes: of the job.
        reshard: `trainer.fsdp2.reshard`.
        ema: whether there is a moving average.
        kept: bytes beside the training.
        process: bytes before there is a tensor.
        host: whether the process trains where it writes checkpoints, in the machine's own memory.
    """
    found = []
    saved = {CHECKPOINT: step.peaks[FORWARD]} if host else {}
    for moment, kinds in (step.peaks | saved).items():
        now = {**kinds, GATHERED: 0.0, AVERAGE: FLOAT * sizes.trained * ema, KEPT: kept, PROCESS: process}
        if strategy == DDP:
            # Gradients are views of the buckets, which stay.
            now[GRADIENTS] = FLOAT * sizes.trained
        if strategy == FSDP2:
            for kind in (WEIGHTS, GRADIENTS, OPTIMISER, AVERAGE):
                now[kind] /= processes
            if moment in (UPDATE, CHECKPOINT):
                now[ACTIVATIONS] /= processes  # all of it the optimiser's, in the shape of the shards
            else:
                blocks = _WHOLE * sizes.block if reshard else sizes.all - sizes.rest
                gradients = 0 if moment == FORWARD else 2 * sizes.block_trained + sizes.rest_trained
                now[GATHERED] = FLOAT * (min(blocks, sizes.all - sizes.rest) + sizes.rest + gradients)
        if moment == CHECKPOINT:
            # Each process writes its part, of what all have whole too.
            state = FLOAT * sizes.trained * (1 + ema) + kinds[OPTIMISER]
            now[ACTIVATIONS] = _COPIES * min(state / (1 if strategy == ONE else processes), _FILE)
        found.append(Memory(strategy, processes, moment, now))
    return max(found, key=lambda each: each.total)
