"""Where results are made: versions and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "pytorch-lightning",
    "torchmetrics",
    "omegaconf",
    "pluggy",
    "av",
    "vector-quantize-pytorch",
)


@cache
def environment() -> dict[str, Any]:
    """Versions and hardware of this process."""
    hardware = {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "cogvid": importlib.metadata.version("cogvid"),
        # Other than its package's metadata, torch says which build it is: +cpu, +cu130.
        "packages": {"torch": str(torch.__version__), **{name: importlib.metadata.version(name) for name in _PACKAGES}},
        "hardware": hardware,
    }


def _git(*arguments: str) -> str | None:
    here = Path(__file__).parent
    result = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def _first(path: str, key: str) -> str | None:
    lines = Path(path).read_text().splitlines() if Path(path).exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)
