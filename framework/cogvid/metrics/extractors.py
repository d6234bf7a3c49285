"""Video extractors: the frozen networks whose features and class scores the metrics are computed from.

Shapes: B videos, F frames, n samples, d values of one sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cogvid.errors import UserError
from cogvid.interfaces.metric import VideoMetric, check_videos


class Reading(NamedTuple):
    """What an extractor reads from B videos, float32 on the CPU.

    Attributes:
        features: (B, d), or (B, frames, d) of an extractor that reads each frame for itself.
        logits: class scores (B, classes) before the softmax.
    """

    features: Tensor
    logits: Tensor


class VideoExtractor(ABC):
    """A frozen network that reads videos.

    It is deliberately no `nn.Module`: a metric that holds one neither trains it, nor casts it to half
    precision, nor writes it into checkpoints.

    Args:
        network: is put into evaluation mode and frozen.
        weights: the file that `network` was read from.

    Attributes:
        name: what reports call the extractor.
        feature_size: d of the features.
        classes: d of the logits.
        min_frames: the shortest clip that the network can read.
        resize: what happens to frames of another size, in words.
        sha256: of the weights file, in hexadecimal.
    """

    name: str
    feature_size: int
    classes: int
    min_frames: int
    resize: str

    def __init__(self, network: nn.Module, weights: Path) -> None:
        self.sha256 = sha256(weights.read_bytes()).hexdigest()
        self._network = network.eval()
        for parameter in network.parameters():  # a script module has no `requires_grad_`
            parameter.requires_grad_(False)

    @abstractmethod
    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and logits (B, classes) of float32 pixels (B, 3, F, height, width) in 0..255."""

    def read(self, videos: Tensor) -> Reading:
        """Features and logits of videos uint8 (B, F, 3, height, width).

        Raises:
            UserError: the videos are in another form, or have fewer than `min_frames` frames.
        """
        check_videos(videos)
        frames = videos.shape[1]
        if frames < self.min_frames:
            raise UserError(
                f"The extractor {self.name} reads clips of at least {self.min_frames} frames, and these have "
                f"{frames}. Score interpolated clips instead of key frames, generate more frames, or choose "
                "another extractor."
            )
        pixels = videos.transpose(1, 2).float()
        # A mixed-precision trainer may be around this call, and features may not depend on it.
        with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
            features, logits = self._read(self._network.to(pixels.device), pixels)
        return Reading(features.cpu(), logits.cpu())


class TorchScriptExtractor(VideoExtractor):
    """One of the two networks of the literature, from the TorchScript file that StyleGAN-V published.

    `torch.jit.load` executes what the file contains, and these networks exist in no other format: load only a
    file whose origin you trust; `sha256` tells which one it was. Both files resize and normalise.

    * `i3d`, trained on Kinetics-400: features and logits are its 400 values before the softmax. Clips of 10
      frames or more.
    * `c3d`, fine-tuned on UCF-101: reads the first 16 frames of a clip. The file turns them to BGR and
      112x112, subtracts the mean (the protocol of TGANv2) and gives 101 probabilities; features and logits
      are their logarithms.

    Args:
        path: the TorchScript file.
        kind: which of the two it is.

    Raises:
        UserError: the file is missing, is not TorchScript, or does not answer as that network does.
    """

    resize = "by the extractor file"

    def __init__(self, path: str | Path, kind: Literal["i3d", "c3d"]) -> None:
        self.name = kind
        self.feature_size = self.classes = {"i3d": 400, "c3d": 101}[kind]
        self.min_frames = {"i3d": 10, "c3d": 16}[kind]
        self.path = Path(path)
        super().__init__(self._load(), self.path)

    def _load(self) -> nn.Module:
        published = f"the {self.name.upper()} TorchScript file that StyleGAN-V published"
        if not self.path.is_file():
            raise UserError(
                f"The extractor {self.name} is read from a file, and {str(self.path)!r} is none. Download "
                f"{published} and give its path."
            )
        try:
            network: nn.Module = torch.jit.load(self.path, map_location="cpu")
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self.path} is no TorchScript file. Give the path of {published}.") from error
        return network

    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        try:
            if self.name == "i3d":
                scores: Tensor = network(pixels, rescale=True, resize=True, return_features=True)
            else:
                probabilities: Tensor = network(pixels[:, :, :16])
                # A class of probability 0 has to stay finite.
                scores = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{self.path} does not run as the extractor {self.name} ({cause}). Give the file that "
                f"belongs to {self.name}, or the extractor that belongs to this file."
            ) from error
        if scores.shape[1:] != (self.classes,):
            raise UserError(
                f"{self.path} gives {tuple(scores.shape[1:])} values a clip where {self.name} gives "
                f"{self.classes}: it is the file of another network."
            )
        return scores, scores


class ExtractorMetric(VideoMetric):
    """A metric over what an extractor reads from videos of one shape.

    Args:
        extractor: the network that reads the videos.
        config: options of the metric.
    """

    clip_shape: Tensor

    def __init__(self, extractor: VideoExtractor, config: Any = None) -> None:
        super().__init__(config)
        self.extractor = extractor
        self._row_sizes: dict[str, int] = {}
        # Frames, height and width of all videos seen, zeros before the first.
        self.add_state("clip_shape", torch.zeros(3, dtype=torch.long), dist_reduce_fx="max")

    def check(self, frames: int, height: int, width: int) -> None:
        """See `VideoMetric`; the network reads one black clip."""
        self.extractor.read(torch.zeros(1, frames, 3, height, width, dtype=torch.uint8))

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        """Add videos uint8 (B, F, 3, height, width).

        Raises:
            UserError: these are no such videos, too short ones, or of another shape than those before.
        """
        self.check_shape(videos)
        self.add(self.extractor.read(videos), captions, real)

    @abstractmethod
    def add(self, reading: Reading, captions: Sequence[str], real: bool) -> None:
        """Add what the extractor has read from videos, now or at an earlier evaluation."""

    def _add_rows_state(self, name: str, size: int) -> None:
        """A state of float64 rows (n, size), one a video, that grows."""
        self._row_sizes[name] = size
        self.add_state(name, [], dist_reduce_fx="cat")

    def _append(self, name: str, rows: Tensor) -> None:
        getattr(self, name).append(rows.to(self.device).double())

    def _rows(self, name: str) -> Tensor:
        """All rows (n, size) of a state, of all ranks while synchronised."""
        rows = getattr(self, name)
        return rows if isinstance(rows, Tensor) else torch.cat([self._no_rows(name), *rows])

    def _no_rows(self, name: str) -> Tensor:
        return torch.empty(0, self._row_sizes[name], dtype=torch.float64, device=self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks, those of a rank that saw no video too."""
        for name in self._row_sizes:
            # What torchmetrics sends for an empty list differs from rows in type and dimensions.
            if isinstance(getattr(self, name), list):
                getattr(self, name).append(self._no_rows(name))
        super().sync(*args, **kwargs)

    def check_shape(self, videos: Tensor) -> None:
        """Remember the shape of the first videos and hold the others to it."""
        check_videos(videos)
        shape = videos.shape[1], *videos.shape[3:]
        seen = tuple(int(side) for side in self.clip_shape)
        if any(seen) and shape != seen:
            raise UserError(
                f"{type(self).__name__} has seen clips of {seen[0]} frames of {seen[1]}x{seen[2]} pixels and "
                f"now gets {shape[0]} frames of {shape[1]}x{shape[2]}. Bring real and generated clips to the "
                "same number of frames and the same size."
            )
        self.clip_shape = torch.tensor(shape, device=self.device)

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """Extractor, its file, and the clips' shape. Under DDP read it inside `metric.sync_context()`."""
        frames, height, width = (int(side) for side in self.clip_shape)
        return {
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.sha256,
            "resize": self.extractor.resize,
            "frames": frames,
            "height": height,
            "width": width,
        }
