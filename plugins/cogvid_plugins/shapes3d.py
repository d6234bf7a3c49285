"""A small 3D convolutional network that reads clips of the shapes world, for FVD and inception score without
downloads.

The weights in `weights/` were trained by this file; `python -m cogvid_plugins.shapes3d --help` trains them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvid.metrics import VideoExtractor
from cogvid_plugins.shapes_world import ALL_ATTRIBUTES, COLOURS, MOTIONS, SHAPES, SIZES, Scene, sample_scene

WEIGHTS = Path(__file__).parent / "weights" / "shapes3d.safetensors"
PIXELS = 32
FEATURES = 64
TIME_BINS = 4
PATH_POINTS = 5
CLASSES = {
    "motion": MOTIONS,
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": SIZES,
}


class Shapes3d(nn.Module):
    """Features and attribute logits of clips, float (B, 3, F, 32, 32) in -1..1, with any F of 5 or more.

    Per frame the spatial pooling keeps the mean of each channel and its first moments in x and y, so that the
    sequence of them says where things are; the pooling over time keeps the order of four parts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv3d(3, 24, (1, 4, 4), (1, 2, 2), (0, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(24, 48, 3, (1, 2, 2), 1),
            nn.BatchNorm3d(48),
            nn.ReLU(),
            nn.Conv3d(48, 64, 3, 1, 1),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )
        self.sequence = nn.Sequential(nn.Conv1d(3 * 64, 128, 3, padding=1), nn.ReLU())
        self.features = nn.Linear(TIME_BINS * 128, FEATURES)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(FEATURES, len(values)) for name, values in CLASSES.items()}
        )
        # Trained beside the classes, so that the features also say what the caption does not.
        self.layout = nn.Linear(FEATURES, 2 * PATH_POINTS + 3)

    def forward(self, clips: Tensor) -> Tensor:
        """Features (B, 64)."""
        maps = self.convolutions(clips)
        x = torch.linspace(-1, 1, maps.shape[-1], device=maps.device)
        moments = [maps.mean((3, 4)), (maps * x).mean((3, 4)), (maps * x[:, None]).mean((3, 4))]
        sequence = self.sequence(torch.cat(moments, dim=1))
        return self.features(F.adaptive_avg_pool1d(sequence, TIME_BINS).flatten(1))


class Shapes3dExtractor(VideoExtractor):
    """The shipped network: 64 features, and logits of 64 classes, one for each motion and shape."""

    name = "shapes3d"
    feature_size = FEATURES
    classes = len(MOTIONS) * len(SHAPES)
    min_frames = 5
    resize = f"{PIXELS}x{PIXELS}, bilinear, antialiased"

    def __init__(self, weights: Path = WEIGHTS) -> None:
        network = Shapes3d()
        network.load_state_dict(load_file(weights))
        super().__init__(network, weights)

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(network, Shapes3d)
        features = network(normalised(pixels))
        motion, shape = (network.heads[name](features).log_softmax(1) for name in ("motion", "shape"))
        return features, (motion[:, :, None] + shape[:, None]).flatten(1)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, height, width) in 0..255 to (B, 3, F, 32, 32) in -1..1."""
    if pixels.shape[3:] != (PIXELS, PIXELS):
        frames = pixels.transpose(1, 2).flatten(0, 1)
        frames = F.interpolate(frames, (PIXELS, PIXELS), mode="bilinear", antialias=True)
        pixels = frames.unflatten(0, (pixels.shape[0], pixels.shape[2])).transpose(1, 2)
    return pixels / 127.5 - 1


def random_scenes(rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of one second, all attributes equally likely."""
    chosen = rng.integers(len(ALL_ATTRIBUTES), size=count)
    return [sample_scene(rng, ALL_ATTRIBUTES[index], duration=1.0, raster=PIXELS) for index in chosen]


def render(scenes: list[Scene], frames: int, end: float = 1.0) -> Tensor:
    """Videos uint8 (B, F, 3, 32, 32) of the scenes from their start to `end` seconds."""
    clips = np.stack([scene.render(np.linspace(0, end, frames), PIXELS) for scene in scenes])
    return torch.from_numpy(clips).permute(0, 1, 4, 2, 3)


def class_targets(scenes: list[Scene]) -> dict[str, Tensor]:
    """Class indices (B,) of each attribute."""
    return {
        name: torch.tensor([values.index(getattr(scene.attributes, name)) for scene in scenes])
        for name, values in CLASSES.items()
    }


def layout_target(scenes: list[Scene]) -> Tensor:
    """Positions at five times and the background colour, (B, 13), roughly in -1..1."""
    times = np.linspace(0, 1, PATH_POINTS)
    paths = np.stack([scene.position(times, 1).ravel() for scene in scenes])
    backgrounds = np.array([scene.background for scene in scenes]) / 255
    return torch.from_numpy(np.concatenate([paths, backgrounds], axis=1) * 2 - 1).float()


def degraded(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the clips (B, 3, F, height, width) blurred as a tokenizer blurs, all with a little noise."""
    blurred = F.interpolate(F.avg_pool3d(pixels, (1, 2, 2)), pixels.shape[2:], mode="trilinear")
    strength = torch.rand(len(pixels), 1, 1, 1, 1, generator=generator)
    blur = (2 * strength - 1).clamp_min(0)
    noise = 12 * torch.rand(strength.shape, generator=generator) ** 2
    noisy = torch.lerp(pixels, blurred, blur) + noise * torch.randn(pixels.shape, generator=generator)
    return noisy.clamp(0, 255)


def training_batches(seed: int, steps: int, batch: int) -> Iterator[tuple[Tensor, list[Scene]]]:
    """Degraded pixels (B, 3, F, 32, 32) with their scenes: a third of the batches of 5 frames, the rest of 17."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for step in range(steps):
        scenes = random_scenes(rng, batch)
        # Clips of files end before the motion does, by up to a frame.
        videos = render(scenes, 5 if step % 3 == 0 else 17, end=rng.uniform(0.85, 1))
        yield degraded(videos.transpose(1, 2).float(), generator), scenes


def train(seed: int, steps: int, batch: int = 24) -> Shapes3d:
    """A network trained on freshly rendered scenes."""
    torch.manual_seed(seed)
    network = Shapes3d()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    for pixels, scenes in track(training_batches(seed, steps, batch), "training", total=steps):
        features = network(normalised(pixels))
        loss = F.mse_loss(network.layout(features), layout_target(scenes))
        for name, target in class_targets(scenes).items():
            loss = loss + F.cross_entropy(network.heads[name](features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: Shapes3d, seed: int, frames: int, count: int = 768) -> dict[str, float]:
    """The share of `count` unseen clean clips whose attribute the network names, by attribute."""
    scenes = random_scenes(np.random.default_rng([seed, frames]), count)
    features = torch.cat(
        [network(normalised(clips.transpose(1, 2).float())) for clips in render(scenes, frames).split(64)]
    )
    return {
        name: round((network.heads[name](features).argmax(1) == target).double().mean().item(), 4)
        for name, target in class_targets(scenes).items()
    }


def main(
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    steps: Annotated[int, typer.Option(help="Batches of 24 clips.")] = 2500,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the shapes3d extractor and write its weights with the accuracy on unseen scenes."""
    network = train(seed, steps)
    report = {
        "command": f"python -m cogvid_plugins.shapes3d --out {out.name} --steps {steps} --seed {seed}",
        **{f"accuracy_{frames}_frames": json.dumps(accuracy(network, seed, frames)) for frames in (5, 17)},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out, report)
    for name, value in report.items():
        typer.echo(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)
