"""Video extractor `shapes3d`: FVD, inception score and joint distance of the shapes world on a laptop.

The weights beside this file were trained by `python -m cogvid_plugins.shapes.training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from cogvid.metrics import VideoExtractor
from cogvid_plugins.shapes.network import CLASSES, FEATURES, PIXELS, Shapes3d
from cogvid_plugins.shapes.world import MOTIONS, SHAPES, parse_caption

WEIGHTS = Path(__file__).parent / "weights" / "shapes3d.safetensors"


class Shapes3dExtractor(VideoExtractor):
    """The shipped network: features of content and of time, and logits of 64 classes, one for each motion and shape."""

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
        content, time = network(resized(pixels))
        motion, shape = (network.scores[name](content).log_softmax(1) for name in ("motion", "shape"))
        return torch.cat([content, time], dim=1), (motion[:, :, None] + shape[:, None]).flatten(1)

    def texts(self, captions: Sequence[str]) -> Tensor:
        """What captions of the shapes world say, float32 (B, 28): shape, colour, size and motion, each one-hot.

        Raises:
            UserError: one is no caption of this world.
        """
        said = [parse_caption(caption) for caption in captions]
        return torch.cat(
            [
                F.one_hot(_indices(values, [getattr(words, name) for words in said]), len(values))
                for name, values in CLASSES.items()
            ],
            dim=1,
        ).float()


def _indices(values: Sequence[object], chosen: Sequence[object]) -> Tensor:
    return torch.tensor([values.index(value) for value in chosen], dtype=torch.long)


def resized(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, height, width) with their shorter side resized to 32, in their proportions."""
    shorter = min(pixels.shape[3:])
    if shorter == PIXELS:
        return pixels
    sides = [round(side * PIXELS / shorter) for side in pixels.shape[3:]]
    flat = F.interpolate(pixels.flatten(1, 2), sides, mode="bilinear", antialias=True)
    return flat.reshape(*pixels.shape[:3], *sides)
