"""What a device can do: what its maker says of a GPU, what is measured of this machine's processors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from cogvid.config.schema import TrainerConfig
from cogvid.errors import UserError

CPU = "cpu"
# What a process takes on a GPU before it has a tensor there: the context, libraries. Assumed, not measured.
_CONTEXT = 10**9
_SIDE = 1024  # of the matrices that are multiplied


@dataclass(frozen=True)
class Hardware:
    """A device, or this machine's processors, which the processes of a job share.

    Attributes:
        title: for people.
        flops: of products in the precision of the training, at most; in a second and device.
        measured: whether here; else its maker says so.
        memory: bytes of a device.
        process: bytes that a process takes before it has a tensor.
    """

    title: str
    flops: float
    measured: bool
    memory: float
    process: float


def hardware_names() -> list[str]:
    """What `hardware` knows."""
    return [*_makers(), CPU]


def hardware(name: str, trainer: TrainerConfig) -> Hardware:
    """What a process of a training has.

    Args:
        name: one of `hardware_names`.
        trainer: says precision, and the processes and threads on this machine.

    Raises:
        UserError: the name is unknown.
    """
    if name == CPU:
        return _this_machine(trainer)
    known = _makers()
    if name not in known:
        raise UserError(f"--gpu {name}: known are {', '.join(hardware_names())}.")
    about = known[name]
    flops = about["fp32" if trainer.precision == "32-true" else "bf16"]
    return Hardware(about["title"], flops, False, about["memory"], _CONTEXT)


def _makers() -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.load(Path(__file__).with_name("hardware.yaml")))
    assert isinstance(found, dict)
    return {str(name): about for name, about in found.items()}


def _this_machine(trainer: TrainerConfig) -> Hardware:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    threads = trainer.threads or max(1, torch.get_num_threads() // trainer.devices)
    return Hardware(
        f"this machine's CPU, {threads} thread{'s' * (threads > 1)} a process",
        _matmul_peak(threads),
        True,
        memory / trainer.devices,
        resident(),
    )


def _matmul_peak(threads: int) -> float:
    """FLOP a second of a product of two square matrices in float32, the best of a few."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.rand(_SIDE, _SIDE)
        best = min(_seconds(a) for _ in range(5))
    finally:
        torch.set_num_threads(before)
    return 2 * _SIDE**3 / best


def _seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - start


def resident() -> int:
    """Bytes of this process in memory: a training's has imported the same before it begins."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)
