"""Any pattern, computed in whichever way turns out fastest where it runs."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cogvid
from cogvid.attention.compact import compact_mask
from cogvid.attention.dense import DenseAttention
from cogvid.attention.prepare import prepare_attention
from cogvid.config.schema import ComponentConfig
from cogvid.interfaces.attention import Attention, PatternRunner
from cogvid.interfaces.mask import Visibility
from cogvid_plugins.attention.flex import Flex
from cogvid_plugins.attention.naive import all_earlier
from cogvid_plugins.attention.triton.backend import Triton

_ROUNDS = 5
# Of pairs: above it, the dense mask alone would take a gigabyte.
_LARGEST_DENSE = 1 << 28


class Auto(PatternRunner):
    """The pattern of another backend, by its own computation, dense, on FlexAttention or on Triton.

    What is fastest is measured once for each mask, shape and machine, and remembered in a file, so that a run that
    goes on after an interruption makes the same choice and ends with the same bits.
    """

    @dataclass
    class Config(PatternRunner.Config):
        """`pattern`: whose."""

        pattern: ComponentConfig = field(default_factory=all_earlier)

    def prepare(self, mask: Visibility, device: torch.device) -> Attention:
        """See `cogvid.interfaces.attention.AttentionBackend`."""
        ways: dict[str, Callable[[], Attention]] = {"own": lambda: prepare_attention(self.inner, mask, device)}
        if mask.grid.tokens**2 <= _LARGEST_DENSE:
            ways["dense"] = lambda: DenseAttention(mask, device)
        # On a CPU, Triton only interprets, and FlexAttention takes half a minute to be no faster than dense.
        if device.type == "cuda" and self.inner.bias(1) is None:
            ways["flex"] = lambda: prepare_attention(self._run_by(Flex), mask, device)
            ways["triton"] = lambda: prepare_attention(self._run_by(Triton), mask, device)
        return Fastest(mask, ways)

    def _run_by(self, runner: type[PatternRunner]) -> PatternRunner:
        return runner(runner.Config(pattern=self.inner))  # type: ignore[arg-type]


class Fastest:
    """One of several ways to compute the same attention; see `cogvid.interfaces.attention.Attention`.

    Args:
        mask: that they compute.
        ways: by name, each to be prepared when it is tried.
    """

    def __init__(self, mask: Visibility, ways: dict[str, Callable[[], Attention]]) -> None:
        self.ways = ways
        self.digest = compact_mask(mask).digest
        self._chosen: dict[tuple[object, ...], Attention] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, text_mask: Tensor, bias: nn.Module | None) -> Tensor:
        """See `cogvid.interfaces.attention.Attention`."""
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        case = (tuple(q.shape), text_mask.shape[1], str(q.dtype), trains, bias is None, torch.get_num_threads())
        if case not in self._chosen:
            name = self._choose(case, q, k, v, text_mask, bias, trains)
            self._chosen[case] = self.ways[name]()
        return self._chosen[case](q, k, v, text_mask, bias)

    def _choose(
        self,
        case: tuple[object, ...],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        text_mask: Tensor,
        bias: nn.Module | None,
        trains: bool,
    ) -> str:
        if len(self.ways) == 1:
            return next(iter(self.ways))
        file = _remembered([self.digest, *case, *sorted(self.ways), *_machine(q.device)])
        try:
            name = json.loads(file.read_text())["fastest"]
            if name in self.ways:
                return str(name)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not measured yet, or not by us
        inputs = [x.detach().clone().requires_grad_(trains) for x in (q, k, v)]
        seconds = measure(self.ways, lambda way: _run(way, inputs, text_mask, bias, trains))
        name = min(seconds, key=lambda way: seconds[way])
        _remember(file, {"fastest": name, "seconds": seconds})
        return name


def measure(ways: dict[str, Callable[[], Attention]], run: Callable[[Attention], None]) -> dict[str, float]:
    """Seconds that each way takes, by turns, the median of a few; ways that cannot run here are left out.

    Raises:
        UserError: none can.
    """
    prepared: dict[str, Attention] = {}
    refused = []
    for name, prepare in ways.items():
        try:
            attention = prepare()
            run(attention)
            prepared[name] = attention
        except (cogvid.UserError, torch.OutOfMemoryError) as error:
            refused.append(f"{name}: {error}")
    if not prepared:
        raise cogvid.UserError(f"auto: nothing can compute the pattern here. {' '.join(refused)}")
    times: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(_ROUNDS):
        for name, attention in prepared.items():
            started = time.perf_counter()
            run(attention)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def _run(attention: Attention, inputs: list[Tensor], text_mask: Tensor, bias: nn.Module | None, trains: bool) -> None:
    q, k, v = inputs
    with torch.set_grad_enabled(trains):
        output = attention(q, k, v, text_mask, bias)
        if trains:
            torch.autograd.grad(output.sum(), inputs, allow_unused=True)
    if output.device.type == "cuda":
        torch.cuda.synchronize(output.device)


def _machine(device: torch.device) -> list[object]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {os.cpu_count()}"
    return [str(device.type), name, torch.__version__, version("cogvid")]


def _remembered(key: list[Any]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "cogvid" / "attention" / f"{sha256(repr(key).encode()).hexdigest()[:32]}.json"


def _remember(file: Path, choice: dict[str, Any]) -> None:
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(choice) + "\n")
        os.replace(beside, file)
    except OSError:
        pass  # nowhere to write: it is measured again next time


@cogvid.hookimpl
def register_attention_backends() -> dict[str, type]:
    """The backend `auto`."""
    return {"auto": Auto}
