"""Trains the `shapes3d` extractor on scenes rendered on the fly: `python -m cogvid_plugins.shapes.training --help`."""

from __future__ import annotations

import json
import math
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
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvid.metrics.corruptions import STEPS, STRENGTHS, corrupt
from cogvid_plugins.shapes.network import (
    CLASSES,
    DEGREES,
    FAULTS,
    PATH_POINTS,
    PIXELS,
    Shapes3d,
    with_colourfulness,
)
from cogvid_plugins.shapes.world import ALL_ATTRIBUTES, Scene, sample_scene


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

    def videos(self, speed: float = 1.0) -> Tensor:
        """uint8 (B, F, 3, 32, 32)."""
        clips = np.stack([scene.render(self.times * speed, PIXELS, PIXELS) for scene in self.scenes])
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


@dataclass(frozen=True)
class Timed:
    """Clips, and how their time runs.

    Attributes:
        pixels: (B, 3, F, 32, 32).
        fault: the index in `FAULTS` of each clip (B,).
        degrees: of each fault, 0 without it, and twice the share of its way that the object does not go; NaN where
            that is not said, (B, 6).
    """

    pixels: Tensor
    fault: Tensor
    degrees: Tensor


def training_views(seed: int, steps: int) -> Iterator[Views]:
    """Still frames, from which shapes are learned many times sooner; then stills and clips by turns."""
    rng = np.random.default_rng(seed)
    turns = *[(1, 64), (5, 24), (17, 12), (5, 24)] * 2, (9, 16)
    for step in range(steps):
        frames, count = (1, 64) if step < 0.3 * steps else turns[step % len(turns)]
        # Clips of files may end a little before the motion does.
        first, last = (rng.uniform(), 1.0) if frames == 1 else (0.0, rng.uniform(0.85, 1))
        yield Views.random(rng, count, np.linspace(first, last, frames))


def timed(views: Views, rng: np.random.Generator, generator: torch.Generator) -> Timed:
    """Clips of half of the scenes each: as they are, slower, and with two of the faults.

    They look worse than tokenizers make them, before a fault or after it: that may not count as a fault of their time.
    """
    last, speed = float(views.times[-1]), float(rng.uniform(0.4, 1))
    halves = Views(views.scenes[::2], views.times), Views(views.scenes[1::2], views.times)
    parts = [
        _part(worn(halves[0].videos(), generator), "none", 0.0, last),
        _part(worn(halves[1].videos(speed), generator), "none", 0.0, last * speed),
    ]
    for half, fault in zip(halves, rng.choice(FAULTS[1:], 2, replace=False), strict=True):
        stepped = fault in ("held", "cross-faded")
        # A frame that is held to the end is frozen.
        strengths = [s for s in STRENGTHS if not stepped or STEPS[s - 1] < len(views.times)]
        strength, seed = int(rng.choice(strengths)), int(rng.integers(2**31))
        degree = math.log2(STEPS[strength - 1]) if stepped else strength / 2
        way = last * (1 - strength / 5) if fault == "frozen" else math.nan
        if rng.uniform() < 0.5:
            clips = worn(corrupt(fault, half.videos(), strength, seed), generator)
        else:
            clips = corrupt(fault, worn(half.videos(), generator), strength, seed)
        parts.append(_part(clips, fault, degree, way))
    return Timed(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _part(videos: Tensor, fault: str, degree: float, way: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, faults and degrees of clips that are all alike in these."""
    degrees = torch.zeros(len(DEGREES))
    if fault != "none":
        degrees[DEGREES.index(fault)] = degree
    degrees[DEGREES.index("way")] = 2 * (1 - way)
    count = len(videos)
    return videos.transpose(1, 2).float(), torch.full((count,), FAULTS.index(fault)), degrees.repeat(count, 1)


def worn(videos: Tensor, generator: torch.Generator) -> Tensor:
    """Videos uint8 (B, F, 3, height, width), blurred, and noisy in pixels and in patches of 4x4.

    Each clip to its own degree of each, a quarter of them not at all.
    """
    pixels = videos.transpose(1, 2).float()
    blur, grain, patches = (torch.rand(3, len(pixels), 1, 1, 1, 1, generator=generator) * 4 / 3 - 1 / 3).clamp_min(0)
    for _ in range(2):
        softer = F.avg_pool3d(pixels, (1, 3, 3), (1, 1, 1), (0, 1, 1), count_include_pad=False)
        pixels = torch.lerp(pixels, softer, blur)
    pixels = pixels + 6 * grain * torch.randn(pixels.shape, generator=generator)
    coarse = torch.randn(*pixels.shape[:3], PIXELS // 4, PIXELS // 4, generator=generator)
    pixels = pixels + 6 * patches * F.interpolate(coarse, scale_factor=(1, 4, 4))
    return pixels.round().clamp(0, 255).to(torch.uint8).transpose(1, 2)


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
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 1])
    network = Shapes3d()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for views in track(training_views(seed, steps), "training shapes3d", total=steps):
        content = network.content(with_colourfulness(decoded(views.videos().transpose(1, 2).float(), generator)))
        loss = F.mse_loss(network.layout(content), views.layout())
        for name, target in views.classes().items():
            loss = loss + F.cross_entropy(network.scores[name](content), target)
        if len(views.times) > 1:
            clips = timed(views, rng, generator)
            degrees, faults = network.time(with_colourfulness(clips.pixels))
            said = ~clips.degrees.isnan()
            loss = loss + F.cross_entropy(faults, clips.fault) + F.mse_loss(degrees[said], clips.degrees[said])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    network.eval()
    standardise(network, Views.random(np.random.default_rng([seed, 0]), 512, np.linspace(0, 1, 17)))
    return network


@torch.no_grad()
def extract(network: Shapes3d, videos: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, 48) and (B, 6) of clips uint8 (B, F, 3, 32, 32)."""
    parts = [network(batch.transpose(1, 2).float()) for batch in videos.split(64)]
    return torch.cat([content for content, _ in parts]), torch.cat([time for _, time in parts])


@torch.no_grad()
def standardise(network: Shapes3d, views: Views) -> None:
    """Scale each feature of content to mean 0 and variance 1 over these clips, and what reads it accordingly."""
    features, _ = extract(network, views.videos())
    mean, deviation = features.mean(0), features.std(0)
    network.content.features.weight.div_(deviation[:, None])
    network.content.features.bias.sub_(mean).div_(deviation)
    for reader in (*network.scores.values(), network.layout):
        assert isinstance(reader, nn.Linear)
        reader.bias.add_(reader.weight @ mean)
        reader.weight.mul_(deviation)


def accuracy(network: Shapes3d, seed: int, frames: int, count: int = 512) -> dict[str, float]:
    """The share of `count` unseen clips whose attribute the network names, by attribute."""
    views = Views.random(np.random.default_rng([seed, frames]), count, np.linspace(0, 1, frames))
    features, _ = extract(network, views.videos())
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
        "command": f"python -m cogvid_plugins.shapes.training --out {out.name} --steps {steps} --seed {seed}",
        **{f"accuracy_{frames}_frames": json.dumps(accuracy(network, seed, frames)) for frames in (5, 17)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out, report)
    for name, value in report.items():
        typer.echo(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)
