"""What is measured: patterns on grids, and the settings that all methods share.

Shapes: B batch, T text slots, L = T + tokens of the grid, H heads, K channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from cogvid.attention.compact import compact_mask
from cogvid.config.schema import ComponentConfig
from cogvid.errors import UserError
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.grid import Grid
from cogvid.interfaces.mask import Visibility
from cogvid.plugins.manager import PluginManager, create_plugin_manager

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LAYERS = (0, 1)  # a pattern usually repeats after one or two layers


@dataclass(frozen=True)
class AttentionSettings:
    """Of all cases and methods.

    Attributes:
        device, dtype: by name.
        batch, heads, head_size: B, H, K.
        text: T; of each caption's slots, the first five in sixteen are padding.
        forward_only: leave the backward pass out.
        repeats: rounds in which every method is timed once.
        round_seconds: a method is called so often in each round that it takes about so long.
        seed: of the inputs.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 1
    heads: int = 8
    head_size: int = 64
    text: int = 64
    forward_only: bool = False
    repeats: int = 5
    round_seconds: float = 0.05
    seed: int = 0

    @property
    def padding(self) -> int:
        """Padded text slots."""
        return self.text * 5 // 16


@dataclass(frozen=True)
class AttentionCase:
    """A pattern on a sequence of the sequential stage.

    Attributes:
        name: for tables.
        grid: of the sequence.
        component: the pattern's backend.
        plugins: that it may come from, beside the installed ones.
    """

    name: str
    grid: Grid
    component: ComponentConfig = field(hash=False)
    plugins: tuple[str, ...] = ()

    def manager(self) -> PluginManager:
        """The components that a method can be."""
        return create_plugin_manager(self.plugins)

    def backend(self, manager: PluginManager) -> AttentionBackend:
        """The pattern's backend, built."""
        backend: AttentionBackend = manager.create(
            "attention", self.component.name, self.component.options, "attention"
        )
        return backend

    def problems(self, manager: PluginManager, settings: AttentionSettings) -> Iterator[Problem]:
        """The first layers, each distinct mask once; fresh ones with each call, for the memory that they hold."""
        backend = self.backend(manager)
        masks = [Visibility(backend.pattern, self.grid, (False,) * self.grid.frames, layer) for layer in _LAYERS]
        for mask in list({compact_mask(mask): mask for mask in reversed(masks)}.values())[::-1]:
            yield Problem(mask, backend, settings)


def make_case(component: ComponentConfig, grid: Grid, plugins: Sequence[str] = ()) -> AttentionCase:
    """A case, named by grid, backend and options."""
    options = [f"{name} {_plain(value)}" for name, value in component.options.items()]
    size = f"{grid.frames}x{grid.height}x{grid.width}"
    return AttentionCase(
        f"{size} {component.name}" + "".join(f", {o}" for o in options), grid, component, tuple(plugins)
    )


def _plain(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def default_cases(device: str) -> list[AttentionCase]:
    """Windows and boxes on the grids that the papers train on, those that only a GPU can run last."""
    window: dict[str, object] = {"window": [10, 10]}
    table: list[tuple[str, dict[str, object], Grid]] = [
        ("swin_ar", window, Grid(5, 20, 20)),
        ("swin_ar", {**window, "frames": 3}, Grid(5, 20, 20)),
        ("swin_ar", {**window, "frames": 3}, Grid(33, 20, 20)),
        ("local3d", {"extent": [3, 5, 5]}, Grid(5, 20, 20)),
        ("local3d", {"extent": [3, 5, 5]}, Grid(33, 20, 20)),
    ]
    if device == "cuda":
        for grid in (Grid(5, 60, 60), Grid(32, 60, 60)):
            table += [("swin_ar", window, grid), ("local3d", {"extent": [5, 6, 6]}, grid)]
    return [make_case(ComponentConfig(name, options), grid) for name, options, grid in table]


def cases_on(cases: Sequence[AttentionCase], grids: Sequence[Grid]) -> list[AttentionCase]:
    """The cases on some grids.

    Raises:
        UserError: a grid has none.
    """
    for grid in grids:
        if not any(case.grid == grid for case in cases):
            known = ", ".join(sorted({f"{c.grid.frames}x{c.grid.height}x{c.grid.width}" for c in cases}))
            raise UserError(
                f"--grid {grid.frames}x{grid.height}x{grid.width}: no standard case has this grid; they have {known}. "
                "Name a pattern for another grid, such as attention=swin_ar."
            )
    return [case for case in cases if case.grid in grids]


def rehearsal(
    cases: Sequence[AttentionCase], settings: AttentionSettings
) -> tuple[list[AttentionCase], AttentionSettings]:
    """The same cases on a tiny grid, each timed once: whether all of it runs, in seconds."""
    tiny = Grid(3, 4, 6)
    small = replace(settings, heads=2, head_size=16, text=8, repeats=1, round_seconds=0.0)
    return [replace(case, name=f"{case.name} (rehearsed on 3x4x6)", grid=tiny) for case in cases], small


class Problem:
    """The inputs of one layer of a case, the same for every method.

    Attributes:
        mask: who sees whom.
        backend: whose mask it is.
        settings: sizes and seed.
        text_mask: bool (B, T), padding first.
        bias: what the backend adds to the scores, or None.
    """

    def __init__(self, mask: Visibility, backend: AttentionBackend, settings: AttentionSettings) -> None:
        self.mask, self.backend, self.settings = mask, backend, settings
        self.device, self.dtype = torch.device(settings.device), DTYPES[settings.dtype]
        self.text_mask = torch.arange(settings.text, device=self.device).expand(settings.batch, -1) >= settings.padding
        self.bias = self._bias(backend)

    @cached_property
    def packed(self) -> Tensor:
        """Queries, keys and values as the layers of the model lay them out, (B, L, 3, H, K)."""
        s = self.settings
        shape = (s.batch, s.text + self.mask.grid.tokens, 3, s.heads, s.head_size)
        generator = torch.Generator().manual_seed(s.seed)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype)

    @cached_property
    def weights(self) -> Tensor:
        """A gradient of the output, (B, H, tokens, K)."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.seed + 1)
        shape = (s.batch, self.mask.grid.tokens, s.heads, s.head_size)
        return torch.randn(shape, generator=generator).to(self.device, self.dtype).transpose(1, 2)

    def _bias(self, backend: AttentionBackend) -> nn.Module | None:
        bias = backend.bias(self.settings.heads)
        if bias is None:
            return None
        generator = torch.Generator().manual_seed(self.settings.seed + 2)
        for parameter in bias.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        return bias.to(self.device, self.dtype)
