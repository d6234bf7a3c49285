"""Time in rounds, so that ratios are measured side by side; and memory at its peak."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_CLEAR_REFS = Path("/proc/self/clear_refs")
_M_MMAP_THRESHOLD = -3


class DoesNotFitError(Exception):
    """A method needs more memory than there is; the message says how much."""


@dataclass(frozen=True)
class Times:
    """Seconds of one call."""

    median: float
    min: float


def time_rounds(
    calls: Mapping[str, Callable[[], object]], repeats: int, round_seconds: float, device: torch.device
) -> dict[str, Times]:
    """Time calls in turns: whatever slows the machine down slows all of them.

    Args:
        calls: by name; each has run before.
        repeats: rounds.
        round_seconds: how long a call is repeated in each round, about.
        device: where they run.
    """
    counts = {name: max(1, round(round_seconds / _seconds(call, 1, device))) for name, call in calls.items()}
    rounds = [{name: _seconds(call, counts[name], device) for name, call in calls.items()} for _ in range(repeats)]
    times = {name: [one[name] for one in rounds] for name in calls}
    return {name: Times(statistics.median(each), min(each)) for name, each in times.items()}


def _seconds(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Mean of some calls in a row, on a GPU from the first kernel's start to the last one's end."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / count


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return kilobytes("/proc/meminfo", "MemAvailable") or 1 << 62


def check_fits(size: int, device: torch.device, what: str) -> None:
    """Raises DoesNotFitError if most of the free memory would go into `size` bytes."""
    free = free_memory(device)
    if size > 0.8 * free:
        raise DoesNotFitError(f"{what} takes {size / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free")


class PeakMemory:
    """How much memory a method takes: what it keeps between calls, and the most that a call adds to it.

    On a CPU this is a matter of the whole process: it should do nothing else, before or beside it. Without the
    counters of Linux there is no answer.

    Args:
        device: where the method runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type != "cuda":
            # Large blocks then go back to the system when they are freed: what is resident is what is in use.
            mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
            if mallopt is not None:
                mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        self.before = self._kept()

    def of(self, call: Callable[[], object]) -> int | None:
        """Bytes above what there was when this object was made; `call` has run before."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            call()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - self.before
        kept = self._kept() - self.before
        try:
            _CLEAR_REFS.write_text("5")  # the peak begins anew
        except OSError:
            return None
        start = kilobytes("/proc/self/status", "VmRSS")
        call()
        peak = kilobytes("/proc/self/status", "VmHWM")
        return None if start is None or peak is None else kept + max(0, peak - start)

    def _kept(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        # `type` and not `isinstance`: some objects compute their class, with side effects.
        tensors = (x for x in gc.get_objects() if issubclass(type(x), Tensor))
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors if _has_storage(x)}
        return sum(storages.values())


def _has_storage(x: Tensor) -> bool:
    return x.layout is torch.strided and x.device.type == "cpu" and type(x) in (Tensor, torch.nn.Parameter)


def kilobytes(path: str, key: str) -> int | None:
    """The bytes of a line `key:  123 kB`, None without one."""
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
