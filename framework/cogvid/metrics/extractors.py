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
        feature_size: d of the features, 0 if it gives none.
        classes: of the logits, 0 if it gives none.
        min_frames: the shortest clip that the network can read.
        resize: what happens to frames of another size, in words.
        scores: what the network gives for classes; of probabilities the logits are the logarithms.
        per_frame: whether each frame is read for itself.
        sha256: of the weights file, in hexadecimal.
    """

    name: str
    feature_size: int
    classes: int
    min_frames: int
    resize: str
    scores: Literal["logits", "probabilities"] = "logits"
    per_frame: bool = False

    def __init__(self, network: nn.Module, weights: Path) -> None:
        self.sha256 = sha256(weights.read_bytes()).hexdigest()
        self._network = network.eval()
        for parameter in network.parameters():  # a script module has no `requires_grad_`
            parameter.requires_grad_(False)

    @abstractmethod
    def _read(self, network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, d) and class scores (B, classes) of float32 pixels (B, 3, F, height, width) in 0..255."""

    def read(self, videos: Tensor) -> Reading:
        """Features and logits of videos uint8 (B, F, 3, height, width).

        Raises:
            UserError: the videos are in another form, or have fewer than `min_frames` frames, or the class scores are
                not of the kind that the extractor says they are.
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
            features, scores = self._read(self._network.to(pixels.device), pixels)
        return Reading(features.cpu(), self._logits(scores.cpu()))

    def _logits(self, scores: Tensor) -> Tensor:
        if not scores.numel() or scores.shape[1] < 2:
            return scores
        smallest, sums = scores.min(), scores.sum(1)
        # Written so that NaN passes: it makes the values NaN, not the evaluation stop.
        off = (sums - 1).abs().max()
        if self.scores == "logits":
            if smallest >= 0 and off < 1e-4:
                raise UserError(
                    f"The extractor {self.name} is said to give logits, and gives probabilities, whose inception score "
                    "would be near 1 whatever the videos. Set `scores: probabilities`."
                )
            return scores
        if smallest < -1e-6 or off > 1e-2:
            raise UserError(
                f"The extractor {self.name} is said to give probabilities, and gives values that are below 0 or do "
                "not add up to 1. Set `scores: logits`."
            )
        # A class of probability 0 has to stay finite.
        return scores.clamp_min(torch.finfo(scores.dtype).tiny).log()

    def texts(self, captions: Sequence[str]) -> Tensor | None:
        """Values (B, t) of captions, float32 on the CPU, (0, t) of none; None where it cannot read captions."""
        return None

    @property
    def text_size(self) -> int:
        """t of the texts, 0 where captions cannot be read."""
        nothing = self.texts([])
        return 0 if nothing is None else nothing.shape[1]

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.name

    def of(self, usual: str = "") -> str:
        """What a column's title says of it, behind the metric: nothing of the one that the bare name stands for."""
        return "" if self.label == usual else f" ({self.label})"

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two readings must share to be comparable."""
        return {"extractor": self.name, "extractor_sha256": self.sha256, "resize": self.resize}


class ExtractorMetric(VideoMetric):
    """A metric over what an extractor reads from videos of one shape.

    Args:
        extractor: the network that reads the videos.
        config: options of the metric.
    """

    clip_shape: Tensor
    # Whether real videos play a part; where they play none, they are not read.
    reads_real: bool = True

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
        check_videos(videos)
        if real and not self.reads_real:
            return
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
        # What torchmetrics does around `update`, for rows that were read earlier, too: forget the values computed so
        # far, and know that there is something to compute from.
        self._computed = None
        self._update_count = max(self._update_count, 1)
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
            **self.extractor.protocol,
            "frames": frames,
            "height": height,
            "width": width,
        }
