"""What `cogvid bench decode` generates, and how: patterns on grids, by models with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from cogvid.bench.cases import make_case
from cogvid.config.schema import ComponentConfig
from cogvid.interfaces.attention import AttentionBackend
from cogvid.interfaces.decoding import Decoding
from cogvid.interfaces.grid import Grid
from cogvid.model.transformer import CogVideoTransformer, TransformerConfig
from cogvid.plugins.manager import create_plugin_manager

# What the others are compared with: one slot a pass, and what is exact without a guess.
SEQUENTIAL, SCHEDULED = "sequential", "scheduled"
DECODINGS = (SEQUENTIAL, SCHEDULED, "fixed_point")


@dataclass(frozen=True)
class Size:
    """A model's; T text slots, V image tokens."""

    name: str
    layers: int
    width: int
    heads: int
    text: int
    vocabulary: int


SIZES = {
    size.name: size
    for size in (
        Size("tiny", 2, 32, 2, 8, 64),
        Size("quickstart", 4, 128, 4, 16, 512),
        Size("medium", 12, 512, 8, 64, 1024),
        Size("paper", 48, 3072, 48, 64, 20000),
    )
}


@dataclass(frozen=True)
class DecodeCase:
    """What is generated, by a model with random weights.

    Attributes:
        size: of the model.
        component: its attention backend.
        grid: of the clip.
        plugins: that the backend may come from, beside the installed ones.
    """

    size: Size
    component: ComponentConfig = field(hash=False)
    grid: Grid
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.size.name}, {make_case(self.component, self.grid).name}"

    def backend(self) -> AttentionBackend:
        """Its attention backend."""
        manager = create_plugin_manager(self.plugins)
        backend: AttentionBackend = manager.create(
            "attention", self.component.name, self.component.options, "attention"
        )
        return backend

    def decoding(self, name: str) -> Decoding:
        """A decoding with its own options.

        Raises:
            UserError: there is none of this name.
        """
        decoding: Decoding = create_plugin_manager(self.plugins).create("decoding", name)
        return decoding


@dataclass(frozen=True)
class DecodeSettings:
    """Of all cases: where and in what to run, compiled or not, samples of a batch, rounds, and what is compared."""

    device: str = "cpu"
    dtype: str = "float32"
    compile: bool = False
    batch: int = 1
    repeats: int = 3
    decodings: tuple[str, ...] = DECODINGS


def default_cases(device: str) -> list[DecodeCase]:
    """The patterns of the papers on their grid; on a GPU at the paper's size."""
    local, swin = ComponentConfig("local3d", {"extent": [3, 3, 3]}), ComponentConfig("swin_ar", {"window": [5, 5]})
    sizes = ["paper"] if device == "cuda" else ["quickstart", "medium"]
    short = [(ComponentConfig("naive"), 5), (local, 5), (swin, 5)]
    return [
        DecodeCase(SIZES[size], component, Grid(frames, 20, 20))
        for size in sizes
        for component, frames in [*short, (local, 33), (swin, 33)]
    ]


def random_model(case: DecodeCase, backend: AttentionBackend, device: str = "cpu") -> CogVideoTransformer:
    """A model of the case's size, of 256 text tokens."""
    size = case.size
    config = TransformerConfig(
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        vocabulary=size.vocabulary + 1 + 256,
        image_vocabulary=size.vocabulary,
        text_length=size.text,
        text_positions=size.text,
        grid=case.grid,
    )
    torch.manual_seed(0)
    with torch.device(device):  # where it will run: a large one takes minutes to draw on a CPU
        return CogVideoTransformer(config, backend).eval()
