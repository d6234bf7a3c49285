"""PSNR and SSIM of videos as a frame tokenizer shows them again."""

from __future__ import annotations

from cogvid import hookimpl
from cogvid.metrics import Reconstruction, VideoMetric


@hookimpl
def register_metrics() -> dict[str, type[VideoMetric]]:
    return {"reconstruction": Reconstruction}
