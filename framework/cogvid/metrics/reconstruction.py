"""How near copies of videos are to them, pixel by pixel: PSNR and SSIM of a frame tokenizer.

Shapes: B videos, F frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from cogvid.errors import UserError
from cogvid.interfaces.metric import Meaning, VideoMetric, check_videos
from cogvid.metrics.jackknife import shuffled

# Side of the Gaussian window of SSIM.
WINDOW = 11


class Reconstruction(VideoMetric):
    """PSNR and SSIM (Wang et al., 2004) of copies of videos, by torchmetrics.

    Videos and copies come in the same order, whole sets one after the other or in turns; a video waits for its copy.
    PSNR is that of the mean squared error of all pixels of all videos, as torchmetrics has it, so that one exact copy
    does not make it infinite; SSIM is the mean over frames. `compute` gives `psnr`, `psnr_se`, `ssim` and `ssim_se`,
    errors over videos; NaN before the first pair, and PSNR where all copies are exact.

    Raises:
        UserError: a copy has another shape than its video, or there are copies of no video.
    """

    paired = True
    scores: Any

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        # Rows (B, 2): mean squared error and mean SSIM of each video.
        self.add_state("scores", [], dist_reduce_fx="cat")
        self._waiting: dict[bool, list[Tensor]] = {True: [], False: []}

    def check(self, frames: int, height: int, width: int) -> None:
        """See `VideoMetric`."""
        if min(height, width) < WINDOW:
            raise UserError(f"SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, these have {height}x{width}.")

    def update(self, videos: Tensor, captions: Sequence[str], real: bool) -> None:
        """Add videos or copies; the captions play no part."""
        check_videos(videos)
        self.check(videos.shape[1], *videos.shape[3:])
        self._waiting[real].extend(videos)
        pairs = min(map(len, self._waiting.values()))
        for video, copy in zip(*(self._waiting[side][:pairs] for side in (True, False)), strict=True):
            if video.shape != copy.shape:
                raise UserError(f"a copy is {tuple(copy.shape)} where its video is {tuple(video.shape)}")
            self.scores.append(_scores(copy, video.to(copy.device))[None].to(self.device))
        for waiting in self._waiting.values():
            del waiting[:pairs]

    def reset(self) -> None:
        """Forget all videos."""
        super().reset()
        self._waiting = {True: [], False: []}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all ranks, those of a rank that saw no pair too."""
        if isinstance(self.scores, list):
            self.scores = [self._rows()]
        super().sync(*args, **kwargs)

    def _rows(self) -> Tensor:
        none = torch.empty(0, 2, dtype=torch.float64, device=self.device)
        return self.scores if isinstance(self.scores, Tensor) else torch.cat([none, *self.scores])

    def compute(self) -> dict[str, Tensor]:
        """`psnr`, `psnr_se`, `ssim` and `ssim_se`."""
        if len(self._waiting[False]):
            raise UserError(f"{len(self._waiting[False])} copies have come without the videos that they are copies of")
        rows = shuffled(self._rows())
        means = rows.mean(0)
        errors = rows.std(0) / math.sqrt(len(rows)) if len(rows) > 1 else torch.full_like(means, math.nan)
        psnr = -10 * means[0].log10()
        values = {
            "psnr": psnr if psnr.isfinite() else torch.full_like(psnr, math.nan),
            # Of a logarithm: relative.
            "psnr_se": 10 / math.log(10) * errors[0] / means[0],
            "ssim": means[1],
            "ssim_se": errors[1],
        }
        return {name: value.double().cpu() for name, value in values.items()}

    @property
    def meanings(self) -> dict[str, Meaning]:
        """See `VideoMetric`."""
        pixels = "How near copies are to the videos in their pixels."
        structure = "How near copies are to the videos in local means, contrasts and structure; 1 is the same."
        return {
            "psnr": Meaning("PSNR", pixels, "higher", "dB", error="psnr_se"),
            "ssim": Meaning("SSIM", structure, "higher", error="ssim_se"),
        }

    @property
    def protocol(self) -> dict[str, str | int | float]:
        """What two values must share to be comparable."""
        return {
            "pixels": "RGB, 0 to 255",
            "psnr": "of the mean squared error of all videos",
            "ssim": f"Gaussian window {WINDOW}, sigma 1.5",
            "generated_samples": len(self._rows()),
        }


def _scores(copy: Tensor, video: Tensor) -> Tensor:
    """Mean squared error in parts of 1, and SSIM, of one video uint8 (F, 3, height, width), float64 (2,)."""
    one, other = (frames.double() / 255 for frames in (copy, video))
    psnr = peak_signal_noise_ratio(one, other, data_range=1.0)
    ssim = structural_similarity_index_measure(one, other, data_range=1.0)
    assert isinstance(ssim, Tensor)
    return torch.stack([10 ** (-psnr / 10), ssim])
