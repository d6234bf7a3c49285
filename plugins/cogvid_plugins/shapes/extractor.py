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
from cogvid_plugins.shapes.network import FEATURES, PIXELS, Shapes3d
from cogvid_plugins.shapes.world import COLOURS, DIRECTIONS, MOTIONS, SHAPES, SIZES, parse_caption

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
        """What captions of the shapes world say, float32 (B, 20).

        Shape, colour, size, and the directions of the first and of the last phase, each one-hot. Motions one by one
        would say the same, but share no value where they share a direction.

        Raises:
            UserError: one is no caption of this world.
        """
        said = [parse_caption(caption) for caption in captions]
        return torch.cat(
            [
                _one_hot(SHAPES, [words.shape for words in said]),
                _one_hot(tuple(COLOURS), [words.colour for words in said]),
                _one_hot(SIZES, [words.size for words in said]),
                _one_hot(tuple(DIRECTIONS), [words.motion[0] for words in said]),
                _one_hot(tuple(DIRECTIONS), [words.motion[-1] for words in said]),
            ],
            dim=1,
        )


def _one_hot(values: Sequence[str], chosen: Sequence[str]) -> Tensor:
    indices = torch.tensor([values.index(value) for value in chosen], dtype=torch.long)
    return F.one_hot(indices, len(values)).float()


def resized(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, F, height, width) with their shorter side resized to 32, in their proportions."""
    shorter = min(pixels.shape[3:])
    if shorter == PIXELS:
        return pixels
    sides = [round(side * PIXELS / shorter) for side in pixels.shape[3:]]
    flat = F.interpolate(pixels.flatten(1, 2), sides, mode="bilinear", antialias=True)
    return flat.reshape(*pixels.shape[:3], *sides)
