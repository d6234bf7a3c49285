"""A small 3D convolutional network that reads clips of the shapes world: FVD and inception score on a laptop.

The weights beside this file were trained by it; `python -m cogvid_plugins.shapes.extractor --help` trains them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvid.metrics import VideoExtractor
from cogvid_plugins.shapes.world import ALL_ATTRIBUTES, COLOURS, MOTIONS, SHAPES, SIZES, Scene, sample_scene

WEIGHTS = Path(__file__).parent / "weights" / "shapes3d.safetensors"
PIXELS = 32
FEATURES = 64
TIME_BINS = 4
PATH_POINTS = 5
CLASSES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "motion": MOTIONS}


class Shapes3d(nn.Module):
    """Features and class scores of clips of any length.

    Pooling over a frame keeps each channel's maximum (what is there), mean, and first moments in x and y
    (where, in halves of the shorter side from the middle); pooling over time keeps four parts in their order.
    Padding repeats the first and last frame, so that one frame reads as a clip that stands still.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(4, 24, (1, 4, 4), (1, 2, 2), (0, 1, 1)),
            nn.BatchNorm3d(24),
            nn.ReLU(),
            nn.Conv3d(24, 48, 3, (1, 2, 2), 1, padding_mode="replicate"),
            nn.BatchNorm3d(48),
            nn.ReLU(),
            nn.Conv3d(48, 64, (1, 3, 3), 1, (0, 1, 1)),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )
        self.sequence = nn.Sequential(
            nn.Conv1d(4 * 64, 128, 3, padding=1, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv1d(128, 128, 1),
            nn.ReLU(),
        )
        self.features = nn.Linear(TIME_BINS * 128, FEATURES)
        self.scores = nn.ModuleDict({name: nn.Linear(FEATURES, len(values)) for name, values in CLASSES.items()})
        # Trained beside the classes, so that features also tell apart what captions do not.
        self.layout = nn.Linear(FEATURES, 2 * PATH_POINTS + 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (B, 64) of pixels (B, 3, F, height, width) in 0..255, the shorter side 32.

        It was trained on 32x32. On 32x48 it names colour, shape and size as surely, the motion of 93 clips in 100.
        """
        # Objects are colourful, backgrounds are not.
        colourfulness = pixels.amax(1, keepdim=True) - pixels.amin(1, keepdim=True)
        maps = self.convolutions(torch.cat([pixels, colourfulness], dim=1) / 127.5 - 1)
        down, across = (_places(side, min(maps.shape[3:]), maps.device) for side in maps.shape[3:])
        pooled = (
            maps.amax((3, 4)),
            maps.mean((3, 4)),
            (maps * across).mean((3, 4)),
            (maps.mT * down).mean((3, 4)),
        )
        sequence = self.sequence(torch.cat(pooled, dim=1))
        features: Tensor = self.features(F.adaptive_avg_pool1d(sequence, TIME_BINS).flatten(1))
        return features


def _places(side: int, shorter: int, device: torch.device) -> Tensor:
    """Of the cells along a side, in halves of the shorter side from the middle."""
    end = (side - 1) / (shorter - 1)
    return torch.linspace(-end, end, side, device=device)


class Shapes3dExtractor(VideoExtractor):
    """The shipped network: 64 features, and logits of 64 classes, one for each motion and shape."""

    name = "shapes3d"
    feature_size = FEATURES
    classes = len(MOTIONS) * len(SHAPES)
    min_frames = 5
    resize = f"shorter side {PIXELS}, bilinear, antialiased"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        network = Shapes3d()
        network.load_state_dict(load_file(weights))
        super().__init__(network, weights)

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(network, Shapes3d)
        features = network(resized(pixels))
        motion, shape = (network.scores[name](features).log_softmax(1) for name in ("motion", "shape"))
        return features, (motion[:, :, None] + shape[:, None]).flatten(1)


def resized(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, height, width) with their shorter side resized to 32, in their proportions."""
    shorter = min(pixels.shape[3:])
    if shorter == PIXELS:
        return pixels
    sides = [round(side * PIXELS / shorter) for side in pixels.shape[3:]]
    flat = F.interpolate(pixels.flatten(1, 2), sides, mode="bilinear", antialias=True)
    return flat.reshape(*pixels.shape[:3], *sides)


@dataclass(frozen=True)
class Views:
    """Scenes of one second, all seen at the same `times` (F,)."""

    scenes: list[Scene]
    times: NDArray[np.float64]

    @classmethod
    def random(cls, rng: np.random.Generator, count: int, times: NDArray[np.float64]) -> Views:
        """Scenes whose attributes are all equally likely."""
        chosen = rng.integers(len(ALL_ATTRIBUTES), size=count)
        return cls([sample_scene(rng, ALL_ATTRIBUTES[index], duration=1.0) for index in chosen], times)

    def videos(self) -> Tensor:
        """uint8 (B, F, 3, 32, 32)."""
        clips = np.stack([scene.render(self.times, PIXELS, PIXELS) for scene in self.scenes])
        return torch.from_numpy(clips).permute(0, 1, 4, 2, 3)

    def classes(self) -> dict[str, Tensor]:
        """Class indices (B,) of each attribute; without the motion, which one frame does not show."""
        return {
            name: torch.tensor([values.index(getattr(scene.attributes, name)) for scene in self.scenes])
            for name, values in CLASSES.items()
            if name != "motion" or len(self.times) > 1
        }

    def layout(self) -> Tensor:
        """Where the object is at five times, and the background colour, (B, 13), within -1..1."""
        times = np.linspace(self.times[0], self.times[-1], PATH_POINTS)
        paths = np.stack([scene.position(times, 1).ravel() for scene in self.scenes])
        backgrounds = np.array([scene.background for scene in self.scenes]) / 255
        return torch.from_numpy(np.concatenate([paths, backgrounds], axis=1) * 2 - 1).float()


def training_views(seed: int, steps: int) -> Iterator[Views]:
    """Still frames, from which shapes are learned many times sooner; then stills and clips by turns."""
    rng = np.random.default_rng(seed)
    for step in range(steps):
        frames, count = (1, 64) if step < 0.3 * steps else ((1, 64), (5, 24), (17, 12), (5, 24))[step % 4]
        # Clips of files may end a little before the motion does.
        first, last = (rng.uniform(), 1.0) if frames == 1 else (0.0, rng.uniform(0.85, 1))
        yield Views.random(rng, count, np.linspace(first, last, frames))


def decoded(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels (B, 3, F, height, width) as a good tokenizer decodes them: every second clip blurred, faint noise.

    The noise stays faint because a network that learned to overlook noise would give features that do, too.
    """
    blurred = F.interpolate(F.avg_pool3d(pixels, (1, 2, 2)), pixels.shape[2:], mode="trilinear")
    strength = 2 * torch.rand(len(pixels), 1, 1, 1, 1, generator=generator) - 1
    mixed = torch.lerp(pixels, blurred, strength.clamp_min(0))
    return (mixed + 2 * torch.randn(pixels.shape, generator=generator)).clamp(0, 255)


def train(seed: int, steps: int) -> Shapes3d:
    """A network trained on freshly rendered scenes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Shapes3d()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for views in track(training_views(seed, steps), "training shapes3d", total=steps):
        features = network(decoded(views.videos().transpose(1, 2).float(), generator))
        loss = F.mse_loss(network.layout(features), views.layout())
        for name, target in views.classes().items():
            loss = loss + F.cross_entropy(network.scores[name](features), target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    network.eval()
    standardise(network, Views.random(np.random.default_rng([seed, 0]), 512, np.linspace(0, 1, 17)))
    return network


@torch.no_grad()
def extract(network: Shapes3d, views: Views) -> Tensor:
    """Features (B, 64) of the clips as rendered."""
    batches = torch.split(views.videos(), 64)
    return torch.cat([network(batch.transpose(1, 2).float()) for batch in batches])


@torch.no_grad()
def standardise(network: Shapes3d, views: Views) -> None:
    """Scale each feature to mean 0 and variance 1 over these clips, and what reads it accordingly."""
    features = extract(network, views)
    mean, deviation = features.mean(0), features.std(0)
    network.features.weight.div_(deviation[:, None])
    network.features.bias.sub_(mean).div_(deviation)
    for reader in (*network.scores.values(), network.layout):
        assert isinstance(reader, nn.Linear)
        reader.bias.add_(reader.weight @ mean)
        reader.weight.mul_(deviation)


@torch.no_grad()
def accuracy(network: Shapes3d, seed: int, frames: int, count: int = 512) -> dict[str, float]:
    """The share of `count` unseen clips whose attribute the network names, by attribute."""
    views = Views.random(np.random.default_rng([seed, frames]), count, np.linspace(0, 1, frames))
    features = extract(network, views)
    return {
        name: round((network.scores[name](features).argmax(1) == target).double().mean().item(), 4)
        for name, target in views.classes().items()
    }


def main(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    steps: Annotated[int, typer.Option(help="Training batches.")] = 1000,
    seed: Annotated[int, typer.Option(help="All randomness follows from it.")] = 0,
) -> None:
    """Train the shapes3d extractor; its accuracy on unseen scenes is printed and kept in the file."""
    network = train(seed, steps)
    report = {
        "command": f"python -m cogvid_plugins.shapes.extractor --out {out.name} --steps {steps} --seed {seed}",
        **{f"accuracy_{frames}_frames": json.dumps(accuracy(network, seed, frames)) for frames in (5, 17)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out, report)
    for name, value in report.items():
        typer.echo(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)
